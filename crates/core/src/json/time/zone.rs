//! Names of time zones. Those of RFC 2822 mean what it says; the others are here where they mean one thing to all who
//! write them. `IST` (India, Israel, Ireland) and the military letters, whose sign the RFCs disagree about, are not.

/// Minutes east of UTC.
pub(super) fn offset_min(name: &[u8]) -> Option<i64> {
    ZONES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, minutes)| *minutes)
}

const ZONES: &[(&[u8], i64)] = &[
    (b"Z", 0),
    (b"UT", 0),
    (b"UTC", 0),
    (b"GMT", 0),
    // RFC 2822, section 4.3.
    (b"EST", -300),
    (b"EDT", -240),
    (b"CST", -360),
    (b"CDT", -300),
    (b"MST", -420),
    (b"MDT", -360),
    (b"PST", -480),
    (b"PDT", -420),
    (b"AKST", -540),
    (b"AKDT", -480),
    (b"HST", -600),
    (b"BRT", -180),
    (b"WET", 0),
    (b"WEST", 60),
    (b"BST", 60),
    (b"CET", 60),
    (b"CEST", 120),
    (b"MEZ", 60),
    (b"MESZ", 120),
    (b"EET", 120),
    (b"EEST", 180),
    (b"MSK", 180),
    (b"CAT", 120),
    (b"EAT", 180),
    (b"SAST", 120),
    (b"PKT", 300),
    (b"WIB", 420),
    (b"HKT", 480),
    (b"SGT", 480),
    (b"AWST", 480),
    (b"JST", 540),
    (b"KST", 540),
    (b"ACST", 570),
    (b"ACDT", 630),
    (b"AEST", 600),
    (b"AEDT", 660),
    (b"NZST", 720),
    (b"NZDT", 780),
];
