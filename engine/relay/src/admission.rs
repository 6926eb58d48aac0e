//! How many TLS clients may be in their handshake at the same time, and who has to go when there are too many.
//!
//! A handshake takes an honest client a few round trips. Whoever opens connections and says little, to use up what we
//! have, would shut the others out if the limit refused the newest. So it ends the one that has got least far, and of
//! those the oldest: first the silent, then those without a whole ClientHello. Only where these have less than a quarter
//! of the places does one go whose ClientHello was answered: newcomers must have a chance to get as far. To hold a place
//! against an honest client, one has to do what an honest client does.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use sealane_io::rt::Signal;

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

/// The handshakes of one worker that are in progress.
#[derive(Clone)]
pub(crate) struct Admission {
    /// By stage; the oldest of each first.
    inside: Rc<RefCell<[VecDeque<Rc<Signal>>; STAGES]>>,
    most: usize,
}

impl Admission {
    pub(crate) fn new(most: usize) -> Self {
        Self { inside: Rc::default(), most: most.max(1) }
    }

    /// Lets one more in that is at `stage`; if there are as many as there may be, another one is told to go.
    pub(crate) fn enter(&self, stage: Stage) -> Admitted {
        let signal = Rc::new(Signal::default());
        let mut inside = self.inside.borrow_mut();
        while inside.iter().map(VecDeque::len).sum::<usize>() >= self.most {
            let [silent, speaking, answered] = &mut *inside;
            let has_share = silent.len() + speaking.len() >= (self.most / EARLY_PART).max(1);
            let mut early = || silent.pop_front().or_else(|| speaking.pop_front());
            let least = if has_share { early() } else { answered.pop_front().or_else(early) };
            match least {
                Some(least) => least.set(),
                None => break,
            }
        }
        if let Some(queue) = inside.get_mut(stage as usize) {
            queue.push_back(Rc::clone(&signal));
        }
        Admitted { signal, stage: Cell::new(stage), admission: self.clone() }
    }
}

/// One handshake in progress; dropping it makes room.
pub(crate) struct Admitted {
    signal: Rc<Signal>,
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
            queue.push_back(Rc::clone(&self.signal));
        }
    }

    /// Waits until it has to go. May be dropped.
    pub(crate) async fn evicted(&self) {
        self.signal.wait().await;
    }

    fn leave(&self) -> bool {
        let mut inside = self.admission.inside.borrow_mut();
        let found = inside.iter_mut().find_map(|queue| {
            let at = queue.iter().position(|other| Rc::ptr_eq(other, &self.signal))?;
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
    use super::*;

    fn is_inside(admitted: &Admitted) -> bool {
        let inside = admitted.admission.inside.borrow();
        inside.iter().flatten().any(|other| Rc::ptr_eq(other, &admitted.signal))
    }

    #[test]
    fn the_oldest_of_those_that_got_least_far_goes() {
        let admission = Admission::new(4);
        let [silent, speaking, answered, late] = std::array::from_fn(|_| admission.enter(Stage::Silent));
        answered.reached(Stage::Speaking);
        answered.reached(Stage::Answered);
        speaking.reached(Stage::Speaking);
        let fifth = admission.enter(Stage::Silent);
        assert!(!is_inside(&silent) && [&speaking, &answered, &late, &fifth].iter().all(|it| is_inside(it)));
        // One that was told to go does not come back by speaking.
        silent.reached(Stage::Speaking);
        assert!(!is_inside(&silent));
        let _sixth = admission.enter(Stage::Silent);
        assert!(!is_inside(&late) && is_inside(&fifth));
        fifth.reached(Stage::Speaking);
        let (_seventh, _eighth) = (admission.enter(Stage::Silent), admission.enter(Stage::Silent));
        assert!(is_inside(&speaking) && is_inside(&answered) && is_inside(&fifth));
        // Who comes with bytes does not count among the silent.
        let _ninth = admission.enter(Stage::Speaking);
        assert!(is_inside(&speaking) && is_inside(&answered) && is_inside(&fifth));
    }

    #[test]
    fn a_quarter_is_for_newcomers_and_the_answered_keep_the_rest() {
        let admission = Admission::new(8);
        let answered: Vec<_> = (0..8).map(|_| admission.enter(Stage::Silent)).collect();
        answered.iter().for_each(|it| it.reached(Stage::Answered));
        let newcomers: Vec<_> = (0..20).map(|_| admission.enter(Stage::Silent)).collect();
        let kept: Vec<_> = answered.iter().map(is_inside).collect();
        assert_eq!(kept, [false, false, true, true, true, true, true, true]);
        assert_eq!(newcomers.iter().filter(|it| is_inside(it)).count(), 2);
        drop(answered);
        let more: Vec<_> = (0..6).map(|_| admission.enter(Stage::Speaking)).collect();
        assert!(more.iter().all(is_inside), "whoever is done makes room");
        drop((newcomers, more));
        assert!(admission.inside.borrow().iter().all(VecDeque::is_empty));
    }

    #[test]
    fn a_single_place_is_the_newcomers() {
        let admission = Admission::new(1);
        let first = admission.enter(Stage::Silent);
        first.reached(Stage::Answered);
        let second = admission.enter(Stage::Silent);
        assert!(!is_inside(&first) && is_inside(&second));
    }
}
