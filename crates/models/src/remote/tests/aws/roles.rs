//! Roles that STS gives, played by a small server.

use super::credentials::{ANSWER, Home, assert_answer};
use super::*;

/// What STS answers to whoever takes a role on: keys that are named after it.
fn sts(asked: &Asked) -> (u16, &'static str, String) {
    let role = asked.raw.split('&').find_map(|pair| pair.strip_prefix("RoleArn=")).unwrap();
    let id = role.rsplit("%2F").next().unwrap();
    let action = asked.raw.split('&').next().unwrap().trim_start_matches("Action=");
    let answer = format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n<{action}Result><AssumedRoleUser>\
         <Arn>arn:aws:sts::1:assumed-role/x/y</Arn></AssumedRoleUser>\n<Credentials><AccessKeyId>{id}</AccessKeyId>\n\
         <SecretAccessKey>hush</SecretAccessKey><SessionToken>t</SessionToken>\
         <Expiration>2015-08-30T13:36:00Z</Expiration></Credentials></{action}Result></{action}Response>"
    );
    (200, "", answer)
}

const KEYS: &str =
    "[base]\naws_access_key_id = BASE\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY\n";

#[tokio::test]
async fn a_role_is_taken_on_with_the_keys_of_another_profile() {
    let server = serve(sts).await;
    let config = "[profile tone]\nrole_arn = arn:aws:iam::1:role/AKID\nsource_profile = base\nexternal_id = an id\n\
                  role_session_name = nightly\nduration_seconds = 900\nregion = us-east-2\n";
    let home = Home::new(config, KEYS).with("AWS_PROFILE", "tone").with("AWS_ENDPOINT_URL_STS", &server.url);
    assert_answer(&home.find().await.unwrap().unwrap());
    let asked = server.asked.lock()[0].clone();
    assert_eq!(
        asked.raw,
        "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2FAKID&RoleSessionName=nightly\
         &ExternalId=an+id&DurationSeconds=900"
    );
    sigv4::assert_signed(&asked, "BASE", SECRET, "us-east-2/sts", &["host", "content-type", "x-amz-date"]);
}

#[tokio::test]
async fn a_chain_of_roles_is_taken_on_one_with_the_credentials_of_the_other() {
    let server = serve(sts).await;
    let config = "[profile outer]\nrole_arn = arn:aws:iam::2:role/AKID\nsource_profile = inner\n\
                  [profile inner]\nrole_arn = arn:aws:iam::1:role/INNER\nsource_profile = base\n";
    let home = Home::new(config, KEYS).with("AWS_PROFILE", "outer").with("AWS_ENDPOINT_URL", &server.url);
    assert_answer(&home.find().await.unwrap().unwrap());
    let asked = server.asked.lock().clone();
    assert_eq!(asked.len(), 2);
    sigv4::assert_signed(&asked[0], "BASE", SECRET, "eu-west-1/sts", &["host", "content-type", "x-amz-date"]);
    assert!(asked[0].raw.contains("role%2FINNER&RoleSessionName=millstream"), "{}", asked[0].raw);
    assert!(asked[1].raw.contains("role%2FAKID"), "{}", asked[1].raw);
    let signed = ["host", "content-type", "x-amz-date", "x-amz-security-token"];
    sigv4::assert_signed(&asked[1], "INNER", "hush", "eu-west-1/sts", &signed);
    assert_eq!(asked[1].header("x-amz-security-token"), Some("t"));
}

#[tokio::test]
async fn a_role_is_taken_on_with_the_credentials_of_the_container() {
    let (server, agent) = (serve(sts).await, serve(|_| (200, "", ANSWER.into())).await);
    let config = "[default]\nrole_arn = arn:aws:iam::1:role/AKID\ncredential_source = EcsContainer\n";
    let home = Home::new(config, "").with("AWS_ENDPOINT_URL_STS", &server.url);
    let (kind, message) = home.failure().await;
    assert_eq!(kind, ErrorKind::Environment);
    assert!(message.contains("`default`") && message.contains("credential_source = EcsContainer"), "{message}");
    let home = home.with("AWS_CONTAINER_CREDENTIALS_FULL_URI", &agent.url);
    assert_answer(&home.find().await.unwrap().unwrap());
    let asked = server.asked.lock()[0].clone();
    sigv4::assert_signed(&asked, "AKID", "hush", "eu-west-1/sts", &["x-amz-security-token"]);
}

#[tokio::test]
async fn a_web_identity_is_exchanged_for_a_role() {
    let server = serve(sts).await;
    let home = Home::new("", "");
    let token = home.path("token");
    std::fs::write(&token, "a.b+c=\n").unwrap();
    let token = token.to_str().unwrap();
    let config = format!("[default]\nrole_arn = arn:aws:iam::1:role/AKID\nweb_identity_token_file = {token}\n");
    let in_variables = home
        .with("AWS_WEB_IDENTITY_TOKEN_FILE", token)
        .with("AWS_ROLE_ARN", "arn:aws:iam::1:role/AKID")
        .with("AWS_ENDPOINT_URL_STS", &server.url);
    let in_profile = Home::new(&config, "").with("AWS_ENDPOINT_URL_STS", &server.url);
    for home in [&in_variables, &in_profile] {
        assert_answer(&home.find().await.unwrap().unwrap());
        let asked = server.asked.lock().pop().unwrap();
        assert_eq!(
            asked.raw,
            "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2FAKID\
             &RoleSessionName=millstream&WebIdentityToken=a.b%2Bc%3D"
        );
        assert_eq!(asked.header("authorization"), None);
    }
    std::fs::remove_file(token).unwrap();
    let (kind, message) = in_profile.failure().await;
    assert_eq!(kind, ErrorKind::Environment);
    assert!(message.contains(token) && message.contains("`default`"), "{message}");
}

#[tokio::test]
async fn what_sts_refuses_for_good_stops_and_the_rest_is_tried_again() {
    for (status, code, expected) in [
        (403, "AccessDenied", ErrorKind::Environment),
        (400, "ValidationError", ErrorKind::Environment),
        (400, "Throttling", ErrorKind::Retry),
        (400, "ExpiredTokenException", ErrorKind::Retry),
        (503, "ServiceUnavailable", ErrorKind::Retry),
    ] {
        let server = serve(move |_| {
            let error = format!("<Error><Type>Sender</Type><Code>{code}</Code><Message>the reason</Message></Error>");
            (status, "", format!("<ErrorResponse>{error}</ErrorResponse>"))
        })
        .await;
        let config = "[profile tone]\nrole_arn = arn:aws:iam::1:role/AKID\nsource_profile = base\n";
        let home = Home::new(config, KEYS).with("AWS_PROFILE", "tone").with("AWS_ENDPOINT_URL_STS", &server.url);
        let (kind, message) = home.failure().await;
        assert_eq!(kind, expected, "{message}");
        let file = home.path("config");
        for part in ["`tone`", file.to_str().unwrap(), "arn:aws:iam::1:role/AKID", code, "the reason"] {
            assert!(message.contains(part), "{part} is missing: {message}");
        }
    }
}

#[tokio::test]
async fn an_sts_that_does_not_answer_is_asked_again_later() {
    let config = "[default]\nrole_arn = arn:aws:iam::1:role/AKID\nsource_profile = base\n";
    // Nobody listens there.
    let home = Home::new(config, KEYS).with("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1");
    let (kind, message) = home.failure().await;
    assert_eq!(kind, ErrorKind::Retry);
    assert!(message.contains("no answer from STS"), "{message}");
    let server = serve(|_| (200, "", "<AccessKeyId>AKID</AccessKeyId>".into())).await;
    let home = home.with("AWS_ENDPOINT_URL_STS", &server.url);
    let (kind, message) = home.failure().await;
    assert_eq!(kind, ErrorKind::Retry);
    assert!(message.contains("no credentials"), "{message}");
}
