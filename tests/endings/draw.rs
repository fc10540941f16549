//! Draws a scene from a seed: the same seed draws the same.

use std::path::Path;

use fastrand::Rng;

use crate::{
    features::{
        self, Feature, Group,
        Loss::{self, Either},
    },
    scene::{self, Agent, Scene},
    template::Flavour,
};

/// A scene and what was drawn into it.
pub struct Case {
    pub scene: Scene,
    /// What was drawn into each tree.
    pub drawn: Vec<Vec<&'static Feature>>,
    /// What is drawn of the scene as a whole, for the counters.
    pub traits: Vec<&'static str>,
    /// Whether all trees are ended at the same time.
    pub together: bool,
    /// What becomes of the trees in the trash.
    pub way: Way,
    /// Whether the host looks at the trees before it ends them.
    pub looks: bool,
    /// Whether the daemon is started again in between.
    pub restarts: bool,
    /// Whether nothing that was drawn gives a reason to refuse that depends on another tree.
    pub exact: bool,
}

/// What becomes of what has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is put back where it was.
    Back,
    /// It is put back at another place.
    Elsewhere,
    /// It is deleted for good.
    Emptied,
}

impl Case {
    /// Returns what a tree's features mean together.
    pub fn loss(&self, tree: usize) -> Loss {
        let losses = self.drawn[tree].iter().map(|feature| feature.loss);
        let most = losses.max().unwrap_or(Loss::Nothing);
        if self.exact { most } else { most.max(Either) }
    }
}

/// What may be drawn of a scene as a whole; the flavours are counted, too.
pub const TRAITS: &[&str] = &[
    ONE,
    SEVERAL,
    TOGETHER,
    BACK,
    ELSEWHERE,
    EMPTIED,
    LOOKED_AT,
    RESTARTED,
    ODD_PLACE,
    INSIDE_REPOSITORY,
    AGENT,
    AGENT_DELETES,
    AGENT_REFUSES,
    MUTUAL,
];
const ONE: &str = "one worktree";
const SEVERAL: &str = "several worktrees";
const TOGETHER: &str = "ended at the same time";
const BACK: &str = "put back where it was";
const EMPTIED: &str = "deleted for good";
const LOOKED_AT: &str = "looked at before";
const RESTARTED: &str = "a restart before that";
const ELSEWHERE: &str = "put back elsewhere";
const ODD_PLACE: &str = "a folder with an odd name";
const INSIDE_REPOSITORY: &str = "a worktree inside its repository";
const AGENT: &str = "an agent that removes it";
const AGENT_DELETES: &str = "an agent that deletes the branch";
const AGENT_REFUSES: &str = "an agent that refuses at first";
const MUTUAL: &str = "two worktrees of which each reaches the other's commits";

/// Draws a case. The features take turns as the one that is surely in it.
pub fn draw(seed: u64) -> Case {
    // Some on a disk, where files get other numbers and times.
    draw_in(seed, &if seed % 8 == 7 { std::env::temp_dir() } else { scene::quick() })
}

/// Draws a case on a filesystem.
pub fn draw_in(seed: u64, parent: &Path) -> Case {
    let mut rng = Rng::with_seed(seed);
    let possible: Vec<_> =
        features::all().filter(|one| features::around::is_possible(one)).collect();
    let turn = usize::try_from(seed).unwrap_or(0);
    let focus = possible[turn % possible.len()];
    let alone = turn / possible.len() % 2 == 0;
    let flavour = Flavour::ALL[rng.usize(..Flavour::ALL.len())];
    let mut case = Case {
        scene: Scene::new_in(flavour, parent),
        drawn: Vec::new(),
        traits: vec![flavour.name()],
        together: false,
        way: match rng.u8(..8) {
            0 | 1 => Way::Elsewhere,
            2 => Way::Emptied,
            _ => Way::Back,
        },
        looks: rng.u8(..3) == 0,
        restarts: rng.u8(..4) == 0,
        exact: true,
    };
    case.scene.tell(flavour.name());
    let trees = if alone { 1 } else { [1, 2, 2, 3][rng.usize(..4)] };
    let chosen: Vec<_> = (0..trees)
        .map(|tree| match tree {
            0 if alone => vec![focus],
            0 => choose(&mut rng, Some(focus), trees == 1),
            _ => choose(&mut rng, None, false),
        })
        .collect();
    let mutual = trees > 1 && is_plain(&chosen[0]) && rng.bool();
    let chosen = reconcile(chosen, mutual);
    for (tree, features) in chosen.into_iter().enumerate() {
        let start = match features.iter().any(|feature| feature.group == Group::Submodules) {
            _ if mutual && tree == 1 => "feature0".to_owned(),
            true => case.scene.upstream("subs"),
            false => case.scene.upstream("main"),
        };
        let place = place(&mut case, &mut rng, tree);
        let number = case.scene.add_tree(&place, &start);
        case.scene.tell(&format!("tree {place:?} at {start}"));
        if mutual && tree == 0 {
            case.scene.commit(&case.scene.trees[0].path.clone());
        }
        for feature in &features {
            case.scene.tell(feature.name);
            (feature.make)(&mut case.scene, number, &mut rng);
        }
        case.drawn.push(features);
    }
    settle(&mut case, &mut rng, mutual);
    case
}

/// Draws what holds for the scene as a whole.
fn settle(case: &mut Case, rng: &mut Rng, mutual: bool) {
    let several = case.drawn.len() > 1;
    case.together = several && (mutual || rng.bool());
    case.traits.push(if several { SEVERAL } else { ONE });
    if mutual {
        case.traits.push(MUTUAL);
        case.exact = false;
    }
    if case.together {
        case.traits.push(TOGETHER);
    }
    let is_missing = |features: &Vec<&Feature>| features.iter().any(|f| f.group == Group::Missing);
    if case.drawn.iter().any(is_missing) && case.way == Way::Elsewhere {
        // There is no folder that could be put elsewhere.
        case.way = Way::Back;
    }
    case.traits.push(match case.way {
        Way::Back => BACK,
        Way::Elsewhere => ELSEWHERE,
        Way::Emptied => EMPTIED,
    });
    case.traits.extend(case.looks.then_some(LOOKED_AT));
    case.traits.extend(case.restarts.then_some(RESTARTED));
    // A filter holds for all worktrees of the repository.
    if case.drawn.iter().flatten().any(|feature| feature.name.contains("filter")) {
        case.exact = false;
    }
    if rng.u8(..4) == 0 || mutual {
        case.traits.push(AGENT);
        let (deletes_branch, refuses) = (mutual || rng.bool(), rng.u8(..4) == 0);
        case.traits.extend(deletes_branch.then_some(AGENT_DELETES));
        case.traits.extend(refuses.then_some(AGENT_REFUSES));
        for tree in &mut case.scene.trees {
            tree.name = format!("agent {}", tree.name);
        }
        let repository = case.scene.repo();
        case.scene.employ(Agent::new(repository, deletes_branch, refuses));
    }
    let told: Vec<_> = case.traits[1..].to_vec();
    for what in told {
        case.scene.tell(what);
    }
}

/// Draws where a worktree lies, below the scene's folder.
fn place(case: &mut Case, rng: &mut Rng, tree: usize) -> String {
    let odd = ["w i t h", "-w", "w\nline", "wü漢", "w'\"$(x)", "w ", "w*"];
    match rng.u8(..10) {
        0..5 => format!("w{tree}"),
        5 | 6 => format!("trees/deep/w{tree}"),
        7 if case.scene.flavour != Flavour::Bare => {
            case.traits.push(INSIDE_REPOSITORY);
            format!("repo/ignored/w{tree}")
        }
        _ => {
            case.traits.push(ODD_PLACE);
            format!("trees{tree}/{}", odd[rng.usize(..odd.len())])
        }
    }
}

/// Draws what is in one worktree.
fn choose(rng: &mut Rng, focus: Option<&'static Feature>, single: bool) -> Vec<&'static Feature> {
    let mut chosen: Vec<_> = focus.into_iter().collect();
    if focus.is_some_and(stands_alone) {
        return chosen;
    }
    for (group, times, one_in) in [
        (Group::History, 1, 2),
        (Group::Unfinished, 1, 6),
        (Group::Submodules, 1, 5),
        (Group::Flags, 1, 6),
        (Group::Nested, 2, 4),
        (Group::Loose, 4, 3),
        (Group::Settings, 1, 5),
        (Group::Around, 1, 4),
    ] {
        let features = features::of(group);
        for _ in 0..times {
            let feature = features[rng.usize(..features.len())];
            // What is set in a repository holds for the other worktrees, too.
            let fits = single || group != Group::Settings && feature.name != IGNORE_STAT;
            if rng.usize(..one_in) == 0 && fits && !stands_alone(feature) {
                chosen.push(feature);
            }
        }
    }
    chosen
}

const IGNORE_STAT: &str = "core.ignoreStat and a change";

/// Tells whether a feature leaves nothing for another one to be made in.
fn stands_alone(feature: &'static Feature) -> bool {
    feature.group == Group::Missing || feature.name == "a branch without commits"
}

/// Tells whether a tree may be one of two that reach each other.
fn is_plain(features: &[&Feature]) -> bool {
    !features.iter().any(|feature| {
        matches!(
            feature.group,
            Group::Missing | Group::History | Group::Unfinished | Group::Submodules
        )
    })
}

/// Drops what contradicts something drawn before it, and sorts the rest into the order in which
/// it is made.
fn reconcile(mut trees: Vec<Vec<&'static Feature>>, mutual: bool) -> Vec<Vec<&'static Feature>> {
    let blind = |feature: &Feature| feature.name == "permissions that git does not look at";
    let is_blind = trees.iter().flatten().any(|feature| blind(feature));
    let by_mode = |feature: &Feature| {
        feature.name.contains("executable") || feature.name.contains("of a mode")
    };
    let blinded = is_blind && trees.iter().flatten().any(|feature| by_mode(feature));
    for (number, features) in trees.iter_mut().enumerate() {
        let has = |group: Group| features.iter().any(|feature| feature.group == group);
        let (history, unfinished) = (has(Group::History), has(Group::Unfinished));
        let submodules = has(Group::Submodules);
        let mut seen: Vec<(Group, &str)> = Vec::new();
        features.retain(|feature| {
            let again = seen.iter().any(|(group, name)| {
                *name == feature.name
                    || *group == feature.group
                        && !matches!(feature.group, Group::Loose | Group::Nested)
            });
            let contradicts = match feature.group {
                Group::Unfinished => history || submodules,
                Group::Flags => unfinished,
                Group::Submodules => mutual && number == 1,
                _ => false,
            };
            let drops = again || contradicts || blinded && blind(feature);
            if !drops {
                seen.push((feature.group, feature.name));
            }
            !drops
        });
        features.sort_by_key(|feature| features::all().position(|one| one.name == feature.name));
    }
    trees
}
