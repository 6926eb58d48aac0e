//! Calls that await their reply, by their transaction identifiers (RFC 5531 section 9).
//!
//! Counting would not do: a client may say a call again, which is answered once (an NFSv3 client does after its time-out), and
//! a server may say a reply that nobody asked for. Either would leave a count wrong for as long as the connection lives.

use alloc::vec::Vec;

use crate::rpc::Messages;

/// So many are known one by one, more than the slots of a session. Beyond that they are counted.
pub(crate) const KNOWN_MAX: usize = 1024;

/// The calls of one direction.
#[derive(Clone, Debug, Default)]
pub struct Outstanding {
    known: Vec<u32>,
    beyond: u64,
    /// Answered, by replies that are on their way.
    passing: u64,
}

impl Outstanding {
    /// A call has been seen. One that awaits its reply already is the same one.
    pub fn call(&mut self, xid: u32) {
        if self.known.contains(&xid) {
            return;
        }
        if self.known.len() < KNOWN_MAX {
            self.known.push(xid);
        } else {
            self.beyond += 1;
        }
    }

    /// A reply has been seen to its end. One to no call is none.
    pub fn reply(&mut self, xid: u32) {
        if let Some(at) = self.known.iter().position(|known| *known == xid) {
            self.known.swap_remove(at);
        } else if self.beyond > 0 {
            self.beyond -= 1;
        } else {
            return;
        }
        self.passing += 1;
    }

    /// What has been seen has been passed on.
    pub fn passed_on(&mut self) {
        self.passing = 0;
    }

    /// How many calls await a reply that has been passed on.
    pub fn count(&self) -> u64 {
        self.known.len() as u64 + self.beyond + self.passing
    }
}

/// What passes in one direction, for both.
#[derive(Debug)]
pub struct Passing<'o> {
    /// The calls of this direction.
    pub calls: &'o mut Outstanding,
    /// The calls of the other direction, which this one answers.
    pub answered: &'o mut Outstanding,
}

impl Messages for Passing<'_> {
    fn call(&mut self, xid: u32) {
        self.calls.call(xid);
    }

    fn reply_ended(&mut self, xid: u32) {
        self.answered.reply(xid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_awaits_its_reply_until_that_is_passed_on() {
        let mut calls = Outstanding::default();
        calls.call(1);
        calls.call(2);
        calls.reply(1);
        assert_eq!(calls.count(), 2);
        calls.passed_on();
        assert_eq!(calls.count(), 1);
    }

    #[test]
    fn repeated_calls_and_replies_to_nothing_do_not_count() {
        let mut calls = Outstanding::default();
        calls.reply(9);
        for xid in [7, 7, 8, 7] {
            calls.call(xid);
        }
        assert_eq!(calls.count(), 2);
        for xid in [7, 7, 9, 8, 8] {
            calls.reply(xid);
        }
        calls.passed_on();
        assert_eq!(calls.count(), 0);
        calls.call(7);
        assert_eq!(calls.count(), 1, "an identifier may be used again once it was answered");
    }

    #[test]
    fn more_than_can_be_known_are_counted() {
        let mut calls = Outstanding::default();
        let most = 3 * KNOWN_MAX as u32;
        (0..most).for_each(|xid| calls.call(xid));
        assert_eq!((calls.count(), calls.known.len()), (u64::from(most), KNOWN_MAX));
        (0..most).rev().for_each(|xid| calls.reply(xid));
        calls.passed_on();
        assert_eq!(calls.count(), 0);
    }
}
