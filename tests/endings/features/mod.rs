//! What can be drawn into a worktree, and what each means for its end.

pub mod around;
pub mod history;
pub mod loose;
pub mod nested;
pub mod submodules;

use fastrand::Rng;

use crate::scene::Scene;

/// What a feature means for an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// Nothing is lost: by itself it must not stand in the way.
    Nothing,
    /// Nothing that must be asked about first; it may be.
    Either,
    /// It must be refused without force, and end with it.
    Refused,
    /// It must be refused without force, and may be with it.
    RefusedPerhaps,
    /// It must be refused, also with force.
    Always,
}

/// Of which features a worktree has at most so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    History,
    Unfinished,
    Submodules,
    Flags,
    Nested,
    Loose,
    Settings,
    Around,
    Missing,
}

/// One thing that can be drawn.
pub struct Feature {
    pub name: &'static str,
    pub group: Group,
    pub loss: Loss,
    pub make: fn(&mut Scene, usize, &mut Rng),
}

const fn feature(
    group: Group,
    loss: Loss,
    name: &'static str,
    make: fn(&mut Scene, usize, &mut Rng),
) -> Feature {
    Feature { name, group, loss, make }
}

/// Returns all features, in the order in which they are made where several are drawn.
pub fn all() -> impl Iterator<Item = &'static Feature> {
    [
        history::HISTORY,
        history::UNFINISHED,
        submodules::SUBMODULES,
        loose::FLAGS,
        nested::NESTED,
        loose::LOOSE,
        around::SETTINGS,
        around::AROUND,
        around::MISSING,
    ]
    .into_iter()
    .flatten()
}

/// Returns the features of a group that this machine can make.
pub fn of(group: Group) -> Vec<&'static Feature> {
    all().filter(|feature| feature.group == group && around::is_possible(feature)).collect()
}
