//! Signature Version 4, computed a second time and independently, to check what was sent. Source: "Create a signed AWS
//! API request" in the AWS IAM user guide.

use sha2::{Digest, Sha256};

use super::super::server::Asked;

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner: Vec<u8> = block.iter().map(|byte| byte ^ 0x36).chain(message.iter().copied()).collect();
    let outer: Vec<u8> = block.iter().map(|byte| byte ^ 0x5c).chain(Sha256::digest(inner)).collect();
    Sha256::digest(outer).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every service but S3 encodes the path that was sent once more.
fn encoded_again(path: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    path.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// `headers` are in order, in lower case; `scope` is `20150830/us-east-1/service/aws4_request`.
fn signature(
    request: (&str, &str),
    headers: &[(String, String)],
    body: &str,
    date: &str,
    scope: &str,
    secret: &str,
) -> String {
    let (method, path) = request;
    let signed = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
    let squeezed = |value: &str| value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", squeezed(value))).collect();
    let payload = hex(&Sha256::digest(body));
    let canonical = format!("{method}\n{}\n\n{lines}\n{signed}\n{payload}", encoded_again(path));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part.as_bytes()));
    hex(&hmac(&key, to_sign.as_bytes()))
}

/// Checks the signature of a request as it came in, and that the headers which must be signed are.
pub fn assert_signed(asked: &Asked, id: &str, secret: &str, region_and_service: &str, must_be_signed: &[&str]) {
    let authorization = asked.header("authorization").unwrap();
    let field = |name: &str| {
        authorization.split([' ', ',']).find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).unwrap()
    };
    let scope = format!("20150830/{region_and_service}/aws4_request");
    assert_eq!(field("Credential"), format!("{id}/{scope}"));
    let names: Vec<&str> = field("SignedHeaders").split(';').collect();
    for needed in must_be_signed {
        assert!(names.contains(needed), "{needed} is not signed: {authorization}");
    }
    let headers: Vec<(String, String)> =
        names.iter().map(|name| ((*name).to_owned(), asked.header(name).unwrap().to_owned())).collect();
    let path = asked.head.split(' ').nth(1).unwrap();
    let expected = signature(("POST", path), &headers, &asked.raw, asked.header("x-amz-date").unwrap(), &scope, secret);
    assert_eq!(field("Signature"), expected);
}

#[test]
fn the_second_computation_gives_the_signature_that_aws_published() {
    // `get-vanilla` of the AWS Signature Version 4 test suite.
    let headers = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let scope = "20150830/us-east-1/service/aws4_request";
    assert_eq!(
        signature(("GET", "/"), &headers, "", "20150830T123600Z", scope, super::SECRET),
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
    );
}
