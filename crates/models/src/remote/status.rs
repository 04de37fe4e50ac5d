//! What an answer that is no prediction means, from its status and, on AWS, from the error's name.

use reqwest::StatusCode;

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The same request may work later: the endpoint wants to be left alone for a while.
    Throttled,
    /// The same request may work later: the endpoint is not well.
    Sick,
    /// The same request may work with new credentials.
    Expired,
    /// At least one of the texts is refused; without it, the others may be scored.
    Refused,
    /// No request of this kind will work.
    Failed,
}

/// For any HTTP server. An endpoint that says when to come back is busy, not broken.
pub(crate) fn of_http(status: StatusCode, has_retry_after: bool) -> Verdict {
    match status.as_u16() {
        429 => Verdict::Throttled,
        408 | 425 | 500.. if has_retry_after => Verdict::Throttled,
        408 | 425 | 500.. => Verdict::Sick,
        // 424 is what TEI says where its backend stumbled over a batch.
        400 | 413 | 422 | 424 => Verdict::Refused,
        _ => Verdict::Failed,
    }
}

/// For AWS: `name` is the error's, `original` the status of a SageMaker container.
pub(crate) fn of_aws(status: StatusCode, has_retry_after: bool, name: Option<&str>, original: Option<u16>) -> Verdict {
    match name {
        Some("ModelError") => {
            let original = original.and_then(|status| StatusCode::from_u16(status).ok());
            original.map_or(Verdict::Sick, |status| of_http(status, has_retry_after))
        }
        Some(
            "ThrottlingException" | "Throttling" | "ThrottledException" | "TooManyRequestsException" | "RequestLimitExceeded"
            | "EC2ThrottledException" | "ModelNotReadyException" | "ResourceNotReadyException"
            // A function that is being updated.
            | "ResourceConflictException",
        ) => Verdict::Throttled,
        Some("ExpiredToken" | "ExpiredTokenException") => Verdict::Expired,
        Some("RequestTooLargeException") => Verdict::Refused,
        _ => match of_http(status, has_retry_after) {
            // The service's own 400 is about the request, not about a text in it.
            Verdict::Refused if status != StatusCode::PAYLOAD_TOO_LARGE => Verdict::Failed,
            verdict => verdict,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> StatusCode {
        StatusCode::from_u16(code).unwrap()
    }

    #[test]
    fn a_status_says_whether_to_come_back() {
        for (code, has_retry_after, verdict) in [
            (429, false, Verdict::Throttled),
            (503, true, Verdict::Throttled),
            (503, false, Verdict::Sick),
            (408, false, Verdict::Sick),
            (530, false, Verdict::Sick),
            (413, false, Verdict::Refused),
            (424, false, Verdict::Refused),
            (401, true, Verdict::Failed),
            (307, false, Verdict::Failed),
        ] {
            assert_eq!(of_http(status(code), has_retry_after), verdict, "{code}");
        }
    }

    #[test]
    fn the_errors_of_aws_are_told_apart_by_name() {
        for (code, name, original, verdict) in [
            (400, Some("ThrottlingException"), None, Verdict::Throttled),
            (429, Some("ModelNotReadyException"), None, Verdict::Throttled),
            (502, Some("EC2ThrottledException"), None, Verdict::Throttled),
            (503, Some("ServiceUnavailable"), None, Verdict::Sick),
            (530, Some("InternalDependencyException"), None, Verdict::Sick),
            (424, Some("ModelError"), Some(500), Verdict::Sick),
            (424, Some("ModelError"), Some(400), Verdict::Refused),
            (424, Some("ModelError"), Some(404), Verdict::Failed),
            (424, Some("ModelError"), None, Verdict::Sick),
            (400, Some("ValidationError"), None, Verdict::Failed),
            (403, Some("ExpiredTokenException"), None, Verdict::Expired),
            (403, Some("AccessDeniedException"), None, Verdict::Failed),
            (413, Some("RequestTooLargeException"), None, Verdict::Refused),
            (413, None, None, Verdict::Refused),
            (502, None, None, Verdict::Sick),
        ] {
            assert_eq!(of_aws(status(code), false, name, original), verdict, "{code} {name:?} {original:?}");
        }
    }
}
