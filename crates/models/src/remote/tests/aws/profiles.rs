//! What the files of AWS say.

use super::credentials::Home;
use super::*;
use crate::remote::aws::credentials::profile::{Base, NamedPlace, Plan, Profiles};

async fn plan(home: &Home) -> Plan {
    Profiles::read(&home.environment()).await.unwrap().plan().unwrap().unwrap()
}

#[tokio::test]
async fn a_profile_that_contradicts_itself_is_named_with_its_files() {
    let role = "role_arn = arn:aws:iam::1:role/x\n";
    for (config, expected) in [
        (format!("{role}source_profile = b\n[profile b]\n{role}source_profile = a\n"), "a → b → a"),
        (format!("{role}source_profile = gone\n"), "`source_profile = gone`, which does not exist"),
        (format!("{role}source_profile = b\n[profile b]\nregion = x\n"), "no credentials"),
        (format!("{role}source_profile = a\n"), "no credentials"),
        (format!("{role}source_profile = b\ncredential_source = Environment\n"), "both"),
        (role.to_owned(), "write source_profile"),
        (format!("{role}credential_source = Moon\n"), "credential_source = Moon"),
        (format!("{role}credential_source = Environment\nduration_seconds = 899\n"), "duration_seconds = 899"),
        (format!("{role}credential_source = Environment\nmfa_serial = arn:x\n"), "mfa_serial"),
        ("web_identity_token_file = /x\n".to_owned(), "role_arn"),
        ("sso_session = gone\n".to_owned(), "[sso-session gone]"),
        ("sso_start_url = https://x\nsso_region = x\n".to_owned(), "sso_account_id"),
        ("login_session = arn:x\n".to_owned(), "export-credentials --profile a"),
        ("aws_access_key_id = x\n".to_owned(), "no aws_secret_access_key"),
        ("aws_secret_access_key = hush\n".to_owned(), "no aws_access_key_id"),
        ("hush\n".to_owned(), "line 2"),
    ] {
        let home = Home::new(&format!("[profile a]\n{config}"), "").with("AWS_PROFILE", "a");
        let (kind, message) = home.failure().await;
        assert_eq!(kind, ErrorKind::Environment, "{message}");
        assert!(message.contains(expected), "{expected} is missing: {message}");
        assert!(message.contains(home.path("config").to_str().unwrap()), "{message}");
    }
}

#[tokio::test]
async fn a_profile_that_was_asked_for_by_name_must_be_there() {
    let (kind, message) = Home::new("", "").with("AWS_PROFILE", "tone").failure().await;
    assert_eq!(kind, ErrorKind::Environment);
    assert!(message.contains("`tone`") && message.contains("AWS_PROFILE"), "{message}");
    assert!(Home::new("", "").with("AWS_PROFILE", "default").find().await.unwrap().is_none());
}

#[tokio::test]
async fn the_keys_of_a_source_profile_come_before_its_role() {
    let config =
        "[profile a]\nrole_arn = arn:a\nsource_profile = b\n[profile b]\nrole_arn = arn:b\nsource_profile = a\n";
    let keys = "[b]\naws_access_key_id = B\naws_secret_access_key = hush\n";
    let Plan { base: Base::Keys(found), roles } = plan(&Home::new(config, keys).with("AWS_PROFILE", "a")).await else {
        panic!("no keys");
    };
    assert_eq!((found.access_key_id(), roles.len(), roles[0].arn.as_str()), ("B", 1, "arn:a"));
    // And a profile may be its own source.
    let Plan { base: Base::Keys(found), roles } =
        plan(&Home::new("[profile b]\nrole_arn = arn:b\nsource_profile = b\n", keys).with("AWS_PROFILE", "b")).await
    else {
        panic!("no keys");
    };
    assert_eq!((found.access_key_id(), roles.len()), ("B", 1));
}

#[tokio::test]
async fn a_role_may_start_at_any_kind_of_profile() {
    let role = "[default]\nrole_arn = arn:x\nsource_profile = b\n[profile b]\n";
    let of = async |config: &str| plan(&Home::new(&format!("{role}{config}"), "")).await;
    let login = "sso_start_url = https://x\nsso_region = r\nsso_account_id = 1\nsso_role_name = n\n";
    assert!(matches!(of(login).await.base, Base::Sso(_)));
    assert!(matches!(of("role_arn = arn:y\nweb_identity_token_file = /x\n").await.base, Base::WebIdentity { .. }));
    let process = of("credential_process = helper --token hush\n").await;
    assert!(matches!(process.base, Base::Process { .. }));
    assert!(!format!("{process:?}").contains("hush"), "{process:?}");
    for (name, expected) in [
        ("Environment", NamedPlace::Environment),
        ("EcsContainer", NamedPlace::EcsContainer),
        ("Ec2InstanceMetadata", NamedPlace::Ec2InstanceMetadata),
    ] {
        let of = of(&format!("role_arn = arn:y\ncredential_source = {name}\n")).await;
        assert!(matches!(of.base, Base::Place(place) if place == expected), "{of:?}");
        assert_eq!(of.roles.iter().map(|role| role.arn.as_str()).collect::<Vec<_>>(), ["arn:y", "arn:x"]);
    }
}

#[tokio::test]
async fn keys_in_a_plan_are_not_shown() {
    let home =
        Home::new("", "[default]\naws_access_key_id = A\naws_secret_access_key = hush\naws_session_token = hush2\n");
    let shown = format!("{:?}", plan(&home).await);
    assert!(!shown.contains("hush"), "{shown}");
}
