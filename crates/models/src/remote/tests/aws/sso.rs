//! Sign-ins that the AWS CLI keeps, and the portal that gives credentials for them.

use std::path::PathBuf;

use super::credentials::{Home, assert_answer};
use super::*;

const SESSION: &str = "[profile dev]\nsso_session = my-sso\nsso_account_id = 111122223333\nsso_role_name = Reader\n\
[sso-session my-sso]\nsso_region = eu-central-1\nsso_start_url = https://d-1.awsapps.com/start\n";
const OLDER: &str = "[profile dev]\nsso_start_url = https://d-1.awsapps.com/start\nsso_region = eu-central-1\n\
sso_account_id = 111122223333\nsso_role_name = Reader\n";
/// SHA-1 of `my-sso` and of `https://d-1.awsapps.com/start`, as `sha1sum` computes them.
const SESSION_FILE: &str = "0ad374308c5a4e22f723adf10145eafad7c4031c.json";
const OLDER_FILE: &str = "0c54b6c27e90660baa89eaad85ac1d5dae26cb7d.json";
const ROLE: &str = "{\"roleCredentials\":{\"accessKeyId\":\"AKID\",\"secretAccessKey\":\"hush\",\"sessionToken\":\"t\",\
\"expiration\":1440941760000}}";

fn home(config: &str, server: &str, file: &str, token: Option<&str>) -> (Home, PathBuf) {
    let home = Home::new(config, "")
        .with("AWS_PROFILE", "dev")
        .with("AWS_ENDPOINT_URL_SSO", server)
        .with("AWS_ENDPOINT_URL_SSO_OIDC", &format!("{server}/oidc/"));
    let folder = home.path(".aws/sso/cache");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(file);
    if let Some(token) = token {
        std::fs::write(&file, token).unwrap();
    }
    (home, file)
}

fn token(expires_at: &str, refresh: &str) -> String {
    let url = "https://d-1.awsapps.com/start";
    format!("{{\"startUrl\":\"{url}\",\"accessToken\":\"hush-1\",\"expiresAt\":\"{expires_at}\"{refresh}}}")
}

const REFRESH: &str =
    ",\"clientId\":\"id\",\"clientSecret\":\"hush-2\",\"refreshToken\":\"hush-3\",\"region\":\"eu-central-1\"";

#[tokio::test]
async fn the_token_of_a_sign_in_is_exchanged_for_a_role() {
    let server = serve(|_| (200, "", ROLE.into())).await;
    for (config, file, expires_at) in [
        (SESSION, SESSION_FILE, "2015-08-30T13:00:00Z"),
        (OLDER, OLDER_FILE, "2015-08-30T13:00:00Z"),
        (OLDER, OLDER_FILE, "2015-08-30T13:00:00UTC"),
        // About to end, and nothing to renew it with.
        (SESSION, SESSION_FILE, "2015-08-30T12:37:00Z"),
        (OLDER, OLDER_FILE, "2015-08-30T12:37:00Z"),
    ] {
        let (home, _) = home(config, &server.url, file, Some(&token(expires_at, "")));
        assert_answer(&home.find().await.unwrap().unwrap());
        let asked = server.asked.lock().pop().unwrap();
        let line = "GET /federation/credentials?role_name=Reader&account_id=111122223333 HTTP/1.1\r\n";
        assert!(asked.head.starts_with(line), "{}", asked.head);
        assert_eq!(asked.header("x-amz-sso_bearer_token"), Some("hush-1"));
    }
}

#[tokio::test]
async fn without_a_token_that_holds_the_message_says_how_to_sign_in() {
    let server = serve(|_| (401, "", "{\"message\":\"Session token not found or invalid\"}".into())).await;
    let ended = token("2015-08-30T12:36:00Z", "");
    let good = token("2015-08-30T13:00:00Z", "");
    for (text, expected) in [
        (None, "is missing"),
        (Some("hush"), "can't be read"),
        (Some("{\"accessToken\":\"hush\"}"), "can't be read"),
        (Some(ended.as_str()), "has expired"),
        (Some(good.as_str()), "is not taken any more"),
    ] {
        for (config, file) in [(SESSION, SESSION_FILE), (OLDER, OLDER_FILE)] {
            let (home, _) = home(config, &server.url, file, text);
            let (kind, message) = home.failure().await;
            assert_eq!(kind, ErrorKind::Environment, "{message}");
            for part in [expected, "run `aws sso login --profile dev`", home.path("config").to_str().unwrap()] {
                assert!(message.contains(part), "{part} is missing: {message}");
            }
        }
    }
    assert_eq!(server.asked.lock().len(), 2);
}

#[tokio::test]
async fn a_role_that_is_not_given_is_named_and_a_sick_portal_is_asked_again_later() {
    for (status, expected) in [(403, ErrorKind::Environment), (429, ErrorKind::Retry), (500, ErrorKind::Retry)] {
        let server = serve(move |_| (status, "", "{\"message\":\"No access\"}".into())).await;
        let (home, _) = home(SESSION, &server.url, SESSION_FILE, Some(&token("2015-08-30T13:00:00Z", "")));
        let (kind, message) = home.failure().await;
        assert_eq!(kind, expected, "{message}");
        assert!(message.contains("No access"), "{message}");
        assert_eq!(message.contains("the role Reader of account 111122223333"), status == 403, "{message}");
    }
}

#[tokio::test]
async fn the_token_of_a_session_is_renewed_and_written_back() {
    let server = serve(|asked| match asked.head.starts_with("POST /oidc/token ") {
        true => (200, "", "{\"accessToken\":\"hush-4\",\"expiresIn\":3600,\"refreshToken\":\"hush-5\"}".into()),
        false => (200, "", ROLE.into()),
    })
    .await;
    for expires_at in ["2015-08-30T12:40:00Z", "2015-08-30T12:00:00Z"] {
        let (home, file) = home(SESSION, &server.url, SESSION_FILE, Some(&token(expires_at, REFRESH)));
        assert_answer(&home.find().await.unwrap().unwrap());
        let asked = std::mem::take(&mut *server.asked.lock());
        let expected = json!({
            "clientId": "id", "clientSecret": "hush-2", "grantType": "refresh_token", "refreshToken": "hush-3"
        });
        assert_eq!(asked[0].body, expected);
        assert_eq!(asked[1].header("x-amz-sso_bearer_token"), Some("hush-4"));
        let kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let expected = json!({
            "startUrl": "https://d-1.awsapps.com/start", "accessToken": "hush-4", "expiresAt": "2015-08-30T13:36:00Z",
            "clientId": "id", "clientSecret": "hush-2", "refreshToken": "hush-5", "region": "eu-central-1"
        });
        assert_eq!(kept, expected);
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing else is left there");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_answer(&home.find().await.unwrap().unwrap());
        assert_eq!(std::mem::take(&mut *server.asked.lock()).len(), 1, "the new token is used");
    }
}

#[tokio::test]
async fn a_token_that_can_t_be_renewed_is_used_until_it_ends() {
    for (status, after_the_end) in [(400, ErrorKind::Environment), (503, ErrorKind::Retry)] {
        let server = serve(move |asked| match asked.head.starts_with("POST ") {
            true => (status, "", "{\"error\":\"invalid_grant\"}".into()),
            false => (200, "", ROLE.into()),
        })
        .await;
        let (holds, file) = home(SESSION, &server.url, SESSION_FILE, Some(&token("2015-08-30T12:40:00Z", REFRESH)));
        assert_answer(&holds.find().await.unwrap().unwrap());
        std::fs::write(&file, token("2015-08-30T12:36:00Z", REFRESH)).unwrap();
        let (kind, message) = holds.failure().await;
        assert_eq!(kind, after_the_end, "{message}");
        assert_eq!(message.contains("aws sso login --profile dev"), status == 400, "{message}");
    }
}
