//! Owns putting right what a checksum would refuse, so that what is behind it is reached.

#[path = "../forge/mod.rs"]
mod forge;

use std::sync::Once;

use sessionmesh::replica::guard;

/// Puts the bytes behind the head of an automerge chunk of their first byte's kind.
///
/// The head is made anew, whether they have one or not.
pub fn with_right_checksum(bytes: &[u8]) -> Vec<u8> {
    const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
    let (kind, contents) = match bytes {
        [a, b, c, d, _, _, _, _, kind, rest @ ..] if [*a, *b, *c, *d] == MAGIC => {
            let length = rest.iter().position(|byte| byte & 0x80 == 0).map_or(0, |at| at + 1);
            (*kind, &rest[length..])
        }
        [kind, rest @ ..] => (*kind % 2, rest),
        [] => (0, bytes),
    };
    forge::chunk(kind, contents)
}

/// Has panics that are contained end nothing: libFuzzer ends the process at each.
pub fn tell_no_contained_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !guard::is_containing() {
                before(panic);
            }
        }));
    });
}
