//! Owns (placeholder until the branch lands) judging a peer's bytes.
#[derive(Debug, thiserror::Error)]
#[error("x")]
/// x
pub struct Refused;
/// x
pub fn check_change(_: &[u8]) -> Result<(), Refused> {
    Ok(())
}
/// x
pub fn check_document(_: &[u8]) -> Result<(), Refused> {
    Ok(())
}
/// x
pub fn check_sync_message(_: &[u8]) -> Result<(), Refused> {
    Ok(())
}
/// x
pub fn is_document(b: &[u8]) -> bool {
    b.get(8) == Some(&0)
}
/// x
pub fn contained<T>(f: impl FnOnce() -> T) -> Result<T, Refused> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).map_err(|_| Refused)
}
