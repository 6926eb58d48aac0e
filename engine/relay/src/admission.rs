//! How many TLS clients may be in their handshake at the same time, and who has to go when there are too many.
//!
//! A handshake takes an honest client a few round trips. Whoever opens connections and says little, to use up what we
//! have, would shut the others out if the limit refused the newest. So it ends the one that has got least far, and of
//! those the oldest: first the silent, then those without a whole ClientHello. Only where these have less than a quarter
//! of the places does one go whose ClientHello was answered: newcomers must have a chance to get as far. To hold a place
//! against an honest client, one has to do what an honest client does.
//!
//! The same holds within the share of one address: one too many of its own makes way, and the newest gets its chance. So
//! who shares an address with many silent ones, behind a translator or in an IPv6 /64, is not shut out by them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use sealane_io::rt::Signal;

use crate::addresses::Block;

/// How far a handshake has got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// Not a byte has come.
    Silent,
    /// Something has come.
    Speaking,
    /// A ClientHello has come that was answered.
    Answered,
}

const STAGES: usize = 3;

/// This part of the places, at least one, is for those whose ClientHello has not been answered yet.
const EARLY_PART: usize = 4;

/// Which limit a handshake made way for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Limit {
    /// `--handshakes-max`
    All,
    /// `--handshakes-per-address-max`
    Address,
}

impl Limit {
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::All => "--handshakes-max",
            Self::Address => "--handshakes-per-address-max",
        }
    }
}

struct Entry {
    block: Block,
    /// Set when it has to go.
    signal: Signal,
    why: Cell<Limit>,
}

type Queues = [VecDeque<Rc<Entry>>; STAGES];

/// The handshakes of one worker that are in progress.
#[derive(Clone)]
pub(crate) struct Admission {
    /// By stage; the oldest of each first.
    inside: Rc<RefCell<Queues>>,
    most: usize,
    most_of_one: usize,
}

impl Admission {
    /// For `most` handshakes, and `most_of_one` of one address.
    pub(crate) fn new(most: usize, most_of_one: usize) -> Self {
        Self { inside: Rc::default(), most: most.max(1), most_of_one: most_of_one.max(1) }
    }

    /// Lets one more in that is at `stage`; if there are as many as there may be, of its address or in all, another one of
    /// these is told to go.
    pub(crate) fn enter(&self, stage: Stage, block: Block) -> Admitted {
        let mut inside = self.inside.borrow_mut();
        make_way(&mut inside, self.most_of_one, Limit::Address, |entry| entry.block == block);
        make_way(&mut inside, self.most, Limit::All, |_| true);
        let entry = Rc::new(Entry { block, signal: Signal::default(), why: Cell::new(Limit::All) });
        if let Some(queue) = inside.get_mut(stage as usize) {
            queue.push_back(Rc::clone(&entry));
        }
        Admitted { entry, stage: Cell::new(stage), admission: self.clone() }
    }
}

/// Tells those to go that got least far, until there is a place for one more among `most` of those that count.
fn make_way(inside: &mut Queues, most: usize, why: Limit, counts: impl Fn(&Entry) -> bool) {
    loop {
        let [silent, speaking, answered] =
            inside.each_ref().map(|queue| queue.iter().filter(|entry| counts(entry)).count());
        if silent + speaking + answered < most {
            return;
        }
        let has_share = silent + speaking >= (most / EARLY_PART).max(1);
        let stages = if has_share { [0, 1, 2] } else { [2, 0, 1] };
        let oldest = |queue: &mut VecDeque<Rc<Entry>>| queue.remove(queue.iter().position(|entry| counts(entry))?);
        let Some(least) = stages.into_iter().find_map(|stage| inside.get_mut(stage).and_then(oldest)) else { return };
        least.why.set(why);
        least.signal.set();
    }
}

/// One handshake in progress; dropping it makes room.
pub(crate) struct Admitted {
    entry: Rc<Entry>,
    stage: Cell<Stage>,
    admission: Admission,
}

impl Admitted {
    /// It has got as far as `stage`.
    pub(crate) fn reached(&self, stage: Stage) {
        if self.stage.replace(stage) == stage {
            return;
        }
        // One that was told to go is no longer there.
        if self.leave()
            && let Some(queue) = self.admission.inside.borrow_mut().get_mut(stage as usize)
        {
            queue.push_back(Rc::clone(&self.entry));
        }
    }

    /// Waits until it has to go; returns for which limit. May be dropped.
    pub(crate) async fn evicted(&self) -> Limit {
        self.entry.signal.wait().await;
        self.entry.why.get()
    }

    fn leave(&self) -> bool {
        let mut inside = self.admission.inside.borrow_mut();
        let found = inside.iter_mut().find_map(|queue| {
            let at = queue.iter().position(|other| Rc::ptr_eq(other, &self.entry))?;
            queue.remove(at)
        });
        found.is_some()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn block(last: u8) -> Block {
        IpAddr::from([192, 0, 2, last]).into()
    }

    fn is_inside(admitted: &Admitted) -> bool {
        let inside = admitted.admission.inside.borrow();
        inside.iter().flatten().any(|other| Rc::ptr_eq(other, &admitted.entry))
    }

    #[test]
    fn the_oldest_of_those_that_got_least_far_goes() {
        let admission = Admission::new(4, usize::MAX);
        let [silent, speaking, answered, late] = std::array::from_fn(|_| admission.enter(Stage::Silent, block(1)));
        answered.reached(Stage::Speaking);
        answered.reached(Stage::Answered);
        speaking.reached(Stage::Speaking);
        let fifth = admission.enter(Stage::Silent, block(1));
        assert!(!is_inside(&silent) && [&speaking, &answered, &late, &fifth].iter().all(|it| is_inside(it)));
        // One that was told to go does not come back by speaking.
        silent.reached(Stage::Speaking);
        assert!(!is_inside(&silent));
        let _sixth = admission.enter(Stage::Silent, block(1));
        assert!(!is_inside(&late) && is_inside(&fifth));
        fifth.reached(Stage::Speaking);
        let (_seventh, _eighth) = (admission.enter(Stage::Silent, block(1)), admission.enter(Stage::Silent, block(1)));
        assert!(is_inside(&speaking) && is_inside(&answered) && is_inside(&fifth));
        // Who comes with bytes does not count among the silent.
        let _ninth = admission.enter(Stage::Speaking, block(1));
        assert!(is_inside(&speaking) && is_inside(&answered) && is_inside(&fifth));
    }

    #[test]
    fn a_quarter_is_for_newcomers_and_the_answered_keep_the_rest() {
        let admission = Admission::new(8, usize::MAX);
        let answered: Vec<_> = (0..8).map(|_| admission.enter(Stage::Silent, block(1))).collect();
        answered.iter().for_each(|it| it.reached(Stage::Answered));
        let newcomers: Vec<_> = (0..20).map(|_| admission.enter(Stage::Silent, block(1))).collect();
        let kept: Vec<_> = answered.iter().map(is_inside).collect();
        assert_eq!(kept, [false, false, true, true, true, true, true, true]);
        assert_eq!(newcomers.iter().filter(|it| is_inside(it)).count(), 2);
        drop(answered);
        let more: Vec<_> = (0..6).map(|_| admission.enter(Stage::Speaking, block(1))).collect();
        assert!(more.iter().all(is_inside), "whoever is done makes room");
        drop((newcomers, more));
        assert!(admission.inside.borrow().iter().all(VecDeque::is_empty));
    }

    #[test]
    fn a_single_place_is_the_newcomers() {
        let admission = Admission::new(1, usize::MAX);
        let first = admission.enter(Stage::Silent, block(1));
        first.reached(Stage::Answered);
        let second = admission.enter(Stage::Silent, block(1));
        assert!(!is_inside(&first) && is_inside(&second));
    }

    #[test]
    fn within_its_share_an_address_makes_way_for_itself_and_for_nobody_else() {
        let admission = Admission::new(100, 8);
        let elsewhere = admission.enter(Stage::Silent, block(2));
        let answered: Vec<_> = (0..8).map(|_| admission.enter(Stage::Speaking, block(1))).collect();
        answered.iter().for_each(|it| it.reached(Stage::Answered));
        let newcomers: Vec<_> = (0..100).map(|_| admission.enter(Stage::Silent, block(1))).collect();
        assert!(is_inside(&elsewhere));
        assert_eq!(answered.iter().filter(|it| is_inside(it)).count(), 6, "all but the quarter of the newcomers");
        let kept: Vec<_> = newcomers.iter().map(is_inside).collect();
        assert!(kept[98] && kept[99] && kept.iter().filter(|kept| **kept).count() == 2, "the newest: {kept:?}");
        let gone = [&newcomers[0], &answered[0]];
        assert!(gone.iter().all(|it| !is_inside(it) && it.entry.why.get() == Limit::Address));
        // Somebody else's places are as free as before.
        let others: Vec<_> = (0..7).map(|_| admission.enter(Stage::Silent, block(2))).collect();
        assert!(others.iter().all(is_inside) && is_inside(&elsewhere) && is_inside(&newcomers[99]));
        let _one_more = admission.enter(Stage::Silent, block(2));
        assert!(!is_inside(&elsewhere) && is_inside(&newcomers[99]));
    }

    #[test]
    fn with_many_addresses_the_limit_of_all_holds_as_well() {
        let admission = Admission::new(4, 2);
        let silent: Vec<_> = (0..20).map(|last| admission.enter(Stage::Silent, block(last))).collect();
        assert_eq!(silent.iter().filter(|it| is_inside(it)).count(), 4);
        assert_eq!(silent[0].entry.why.get(), Limit::All);
    }
}
