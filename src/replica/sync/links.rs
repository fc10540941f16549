//! Owns what nodes tell each other about their links, so that nobody relays what its peer gets anyway.
//!
//! Must not know how a link comes about. Invariants: of each link, every node that has a link to one
//! of its ends is told by one of them, and, but for a race, not by both; a link that is gone is told
//! of at once, for what went over it has to be relayed now.
//!
//! All nodes know the same members, but for a moment. So what is told first on a link is a bit for each
//! member, and later only what differs, where that is shorter. Where one
//! node comes up, that node tells the others of its many new links, in one frame each, and they do not
//! tell each other of one link each: whichever end of a new link says first that it
//! [tells](Links::tells), does.

use std::{collections::BTreeSet, time::Duration};

use sha2::{Digest as _, Sha256};

use super::{CHECK_INTERVAL, Exchange, Out, to};
use crate::{
    replica::ids::NodeId,
    wire::{Frame, Links, LinksBase, limits::LINKS_MAX},
};

/// How long nothing is told of links after something was, and how long a node that is coming up waits
/// for its next link before it tells of those that it has.
pub const TOGETHER_WITHIN: Duration = Duration::from_millis(250);
/// How long a node that is coming up waits for further links at most.
pub const COMING_UP_MAX: Duration = Duration::from_secs(1);
/// How long a node that is up leaves it to the other ends of its new links to tell of them: until it is
/// told, others relay what need not be relayed.
pub const GAINED_WITHIN: Duration = Duration::from_millis(1_500);

/// What is to be told of links, and when.
#[derive(Debug, Clone, Default)]
pub(super) struct Telling {
    members: BTreeSet<NodeId>,
    digest: [u8; 8],
    /// Of whom something is to be told since all was.
    changed: BTreeSet<NodeId>,
    /// When the first and the last new link came up, if that is to be told.
    gained: Option<(Duration, Duration)>,
    /// Whether something is to be told that can't wait.
    is_urgent: bool,
    /// When links were last told of.
    told_at: Option<Duration>,
}

/// What was told of links to a peer, and by it.
#[derive(Debug, Clone, Default)]
pub(super) struct ToldLinks {
    /// With whom the peer says that it has links.
    pub theirs: BTreeSet<NodeId>,
    /// Whether the peer tells the others of the link to it.
    they_tell: bool,
    /// Of whom this node has told it.
    ours: BTreeSet<NodeId>,
    /// Whether anything was told to it.
    has_begun: bool,
    /// Whether it does not know the members that this node knows.
    in_full: bool,
    /// Whether it may hold what was told before, some of which is lost.
    is_anew: bool,
}

impl Exchange {
    /// Says who the members are: what is told of links refers to them.
    pub fn set_members(&mut self, members: BTreeSet<NodeId>) {
        let mut hasher = Sha256::new();
        members.iter().for_each(|node| hasher.update(node.0));
        let hash: [u8; 32] = hasher.finalize().into();
        self.telling.digest.copy_from_slice(&hash[..8]);
        self.telling.members = members;
    }

    /// Tells whether one of two nodes has said that they have a link.
    pub fn is_linked(&self, peer: &NodeId, node: &NodeId) -> bool {
        let says = |one: &NodeId, other: &NodeId| {
            self.links.get(one).is_some_and(|link| link.told.theirs.contains(other))
        };
        says(peer, node) || says(node, peer)
    }

    /// Takes in with whom a peer has links.
    pub fn links_told(&mut self, now: Duration, peer: &NodeId, links: Links, out: &mut Out) {
        let Links { base, linked, unlinked, tells, again } = links;
        let Some(link) = self.links.get_mut(peer) else { return };
        let before = std::mem::take(&mut link.told.theirs);
        let mut theirs = match base {
            LinksBase::Told => before.clone(),
            LinksBase::Members { digest, bits } if digest == self.telling.digest => {
                let is_set =
                    |at: usize| bits.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
                let members = self.telling.members.iter().enumerate();
                members.filter(|(at, _)| is_set(*at)).map(|(_, node)| *node).collect()
            }
            LinksBase::Members { .. } => {
                // Who is a member is on its way to one of the two.
                out.push(to(peer, Frame::Links(Links { again: true, ..Links::default() })));
                BTreeSet::new()
            }
            LinksBase::Nothing => BTreeSet::new(),
        };
        unlinked.iter().for_each(|node| {
            theirs.remove(node);
        });
        let room = LINKS_MAX.saturating_sub(theirs.len());
        theirs.extend(linked.into_iter().take(room));
        link.told.they_tell |= tells;
        if again {
            link.told.in_full = true;
            link.told.has_begun = false;
            self.telling.gained.get_or_insert((now, now));
        }
        // What a lost link would have brought must now be relayed: compare soon, with both its ends.
        let lost: Vec<NodeId> = before.difference(&theirs).copied().collect();
        let left_to_them = link.told.they_tell;
        link.told.theirs = theirs;
        if !lost.is_empty() {
            link.traffic_at = Some(now);
        }
        for node in lost {
            let Some(other) = self.links.get_mut(&node).filter(|other| other.greeted) else {
                continue;
            };
            other.traffic_at = Some(now);
            if left_to_them {
                // That it has a link to this node is now for this node to tell.
                self.telling.changed.insert(*peer);
                self.telling.is_urgent = true;
            }
        }
    }

    /// Notes that a peer has greeted.
    pub(super) fn link_gained(&mut self, now: Duration, peer: &NodeId) {
        let first = self.telling.gained.map_or(now, |(first, _)| first);
        self.telling.gained = Some((first, now));
        self.telling.changed.insert(*peer);
    }

    /// Notes that the link to a peer that had greeted is gone, and what was told on it.
    pub(super) fn link_lost(&mut self, now: Duration, peer: &NodeId, gone: &super::Link) {
        self.telling.changed.insert(*peer);
        self.telling.is_urgent = true;
        // What it has written last may have reached this node and no other.
        if gone.heard_at.is_some_and(|at| at + CHECK_INTERVAL > now) {
            for node in &gone.told.theirs {
                if let Some(link) = self.links.get_mut(node) {
                    link.traffic_at = Some(now);
                }
            }
        }
    }

    /// Has a peer be told all anew: something that it was told is lost.
    pub(super) fn tell_anew(&mut self, peer: &NodeId) {
        if let Some(link) = self.links.get_mut(peer) {
            link.told.has_begun = false;
            link.told.is_anew = true;
            link.told.ours.clear();
            self.telling.is_urgent = true;
        }
    }

    /// Forgets what was to be told.
    pub(super) fn tell_nothing(&mut self) {
        self.telling.changed.clear();
        self.telling.gained = None;
        self.telling.is_urgent = false;
    }

    /// Returns when links are to be told of next.
    pub(super) fn telling_due(&self) -> Option<Duration> {
        let urgent = self.telling.is_urgent.then_some(Duration::ZERO);
        let gained = self.telling.gained.map(|(first, last)| {
            let greeted = self.links.values().filter(|link| link.greeted);
            let (up, new) = greeted.fold((0, 0), |(up, new), link| {
                if link.told.has_begun { (up + 1, new) } else { (up, new + 1) }
            });
            let is_coming_up = new >= up;
            if is_coming_up {
                (last + TOGETHER_WITHIN).min(first + COMING_UP_MAX)
            } else {
                first + GAINED_WITHIN
            }
        });
        let due = urgent.into_iter().chain(gained).min()?;
        Some(self.telling.told_at.map_or(due, |at| due.max(at + TOGETHER_WITHIN)))
    }

    /// Tells of links what has changed, if it is time.
    pub(super) fn tell_links(&mut self, now: Duration, out: &mut Out) {
        if self.telling_due().is_none_or(|due| due > now) {
            return;
        }
        let changed = std::mem::take(&mut self.telling.changed);
        self.telling.gained = None;
        self.telling.is_urgent = false;
        self.telling.told_at = Some(now);
        let greeted: BTreeSet<NodeId> = self.greeted().into_iter().collect();
        // Of whose links the other end tells, and to whom it does.
        let left_to_them = |exchange: &Self, node: &NodeId, peer: &NodeId| {
            let told = exchange.links.get(node).map(|link| &link.told);
            told.is_some_and(|told| told.they_tell && told.theirs.contains(peer))
        };
        for peer in &greeted {
            let told = &self.links[peer].told;
            let links = if told.has_begun {
                let is_new = |node: &NodeId| {
                    node != peer
                        && greeted.contains(node)
                        && !told.ours.contains(node)
                        && !left_to_them(self, node, peer)
                };
                let linked = changed.iter().filter(|node| is_new(node)).copied().collect();
                let is_gone = |node: &NodeId| !greeted.contains(node) && told.ours.contains(node);
                let unlinked = changed.iter().filter(|node| is_gone(node)).copied().collect();
                Links { base: LinksBase::Told, linked, unlinked, ..Links::default() }
            } else {
                self.all_links(peer, &greeted)
            };
            self.say_links(peer, links, &greeted, out);
        }
    }

    /// Tells a peer of links, in the shortest way, unless there is nothing to tell.
    fn say_links(
        &mut self,
        peer: &NodeId,
        mut links: Links,
        greeted: &BTreeSet<NodeId>,
        out: &mut Out,
    ) {
        if links.base == LinksBase::Told {
            if links.linked.is_empty() && links.unlinked.is_empty() {
                return;
            }
            let all = self.all_links(peer, greeted);
            if bytes(&all) < bytes(&links) {
                links = Links { tells: false, ..all };
            }
        }
        let Some(link) = self.links.get_mut(peer) else { return };
        let told = &mut link.told;
        match links.base {
            LinksBase::Told => {
                links.unlinked.iter().for_each(|node| {
                    told.ours.remove(node);
                });
                told.ours.extend(&links.linked);
            }
            LinksBase::Nothing | LinksBase::Members { .. } => {
                told.ours = greeted.iter().filter(|node| *node != peer).copied().collect();
            }
        }
        let is_first = !std::mem::replace(&mut told.has_begun, true);
        let is_anew = std::mem::take(&mut told.is_anew);
        told.in_full = false;
        // That there are none is what a peer takes for granted that was told nothing.
        if !is_first || is_anew || !told.ours.is_empty() {
            out.push(to(peer, Frame::Links(links)));
        }
    }

    /// Returns all links but the one to the peer itself, as a list or by the members.
    fn all_links(&self, peer: &NodeId, greeted: &BTreeSet<NodeId>) -> Links {
        let told = &self.links[peer].told;
        let tells = !told.they_tell;
        let is_other = |node: &&NodeId| *node != peer;
        let linked: Vec<NodeId> = greeted.iter().filter(is_other).copied().collect();
        let list = Links { base: LinksBase::Nothing, linked, tells, ..Links::default() };
        let members = &self.telling.members;
        if told.in_full || members.len() > LINKS_MAX {
            return list;
        }
        let mut bits = vec![0; members.len().div_ceil(8)];
        for (at, _) in
            members.iter().enumerate().filter(|(_, it)| *it != peer && greeted.contains(it))
        {
            bits[at / 8] |= 1 << (at % 8);
        }
        let beside = greeted.difference(members).filter(is_other).copied().collect();
        let base = LinksBase::Members { digest: self.telling.digest, bits };
        let by_members = Links { base, linked: beside, tells, ..Links::default() };
        if bytes(&by_members) < bytes(&list) { by_members } else { list }
    }
}

/// Returns about how many bytes something is told in.
fn bytes(links: &Links) -> usize {
    let base = match &links.base {
        LinksBase::Told | LinksBase::Nothing => 0,
        LinksBase::Members { digest, bits } => digest.len() + bits.len(),
    };
    base + (links.linked.len() + links.unlinked.len()) * size_of::<NodeId>()
}

#[cfg(test)]
mod tests;
