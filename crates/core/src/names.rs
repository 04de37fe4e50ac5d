//! Names that a person may have mistyped.

/// What is longer is no slip of a name, and to compare it takes as much memory as both together, squared.
pub const NAME_BYTES_MAX: usize = 200;

/// The one of `known` that `name` was probably meant to be.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let lower = name.to_lowercase().replace('-', "_");
    let scored = known.into_iter().map(|k| (strsim::osa_distance(&lower, &k.to_lowercase().replace('-', "_")), k));
    let (distance, best) = scored.min_by_key(|(distance, _)| *distance)?;
    let longest = lower.chars().count().max(best.chars().count());
    let inside = best.len() >= 4 && lower.len() >= 4 && (lower.starts_with(best) || best.starts_with(&lower));
    (distance <= (longest / 3).max(1) && distance < longest || inside).then_some(best)
}
