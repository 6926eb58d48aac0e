//! What must be true of a connection when it is over.

use std::time::Duration;

use sealane_proto::tls::{Role, TlsError, Version};
use sealane_relay::SessionError;

use crate::peer::{HeardEnd, Peer};
use crate::plan::{BYTES_EACH_WAY_MIN, Plan};
use crate::stats::Fault;
use crate::world::Run;

/// From a fault to the end of its connection: the longest clock is 180 s, and looked at every few seconds; a path that is
/// cut is known to be after a minute; pauses of the peers come on top.
const FAULT_TO_END_MAX: Duration = Duration::from_secs(260);

/// From the order to stop to the end of a session.
const STOP_TO_END_MAX: Duration = Duration::from_secs(2);

/// How many bytes were compared: from the plain side, and to it.
pub(crate) fn bytes_compared(run: &Run) -> [u64; 2] {
    let heard = |peer: &Option<std::rc::Rc<Peer>>| peer.as_ref().map_or(0, |peer| peer.heard_bytes.get() as u64);
    [heard(&run.tls.borrow()), heard(&run.plain.borrow())]
}

/// What was wrong with it.
pub(crate) fn judge(run: &Run, plan: &Plan) -> Vec<String> {
    let mut wrong = Vec::new();
    let (plain, tls) = (run.plain.borrow().clone(), run.tls.borrow().clone());
    for (side, peer) in [("plain", &plain), ("tls", &tls)] {
        // What is changed in a handshake shows itself at either end.
        let excused = side == "tls" && run.plan.fault == Some(Fault::HandshakeChanged);
        if let Some(found) = peer.as_ref().filter(|_| !excused).and_then(|peer| peer.wrong.borrow().clone()) {
            wrong.push(format!("the {side} peer: {found}"));
        }
    }
    let struck_by = |peer: &Option<std::rc::Rc<Peer>>| peer.as_ref().and_then(|peer| peer.struck.get());
    let struck = struck_by(&plain).or(struck_by(&tls)).or(run.unreached.get());
    let (Some(plain), Some(tls)) = (plain, tls) else {
        // The server was never reached.
        let client = if run.role == Role::Client { &run.plain } else { &run.tls };
        let heard = client.borrow().as_ref().map(|peer| peer.heard_end.get());
        if struck.is_none() || !matches!(heard, Some(HeardEnd::Reset | HeardEnd::Alert(_) | HeardEnd::Bare)) {
            wrong.push(format!("not reached: {heard:?}"));
        }
        return wrong;
    };
    let ends = [plain.heard_end.get(), tls.heard_end.get()];
    let drained = run.outcome.borrow().as_ref().is_some_and(|outcome| outcome.drained);
    let limit = if run.plan.fault == Some(Fault::Stopped) { STOP_TO_END_MAX } else { FAULT_TO_END_MAX };
    match (struck, run.ended_at.get().or(run.over_at.get())) {
        (Some(at), Some(end)) if end.saturating_duration_since(at) > limit => {
            wrong.push(format!("over {} s after the fault", (end - at).as_secs()));
        }
        _ => {}
    }
    wrong.extend(never(run, &plain, &tls, drained));
    let all_arrived =
        tls.heard_bytes.get() == run.said[0].borrow().len() && plain.heard_bytes.get() == run.said[1].borrow().len();
    let is_to_end_well = run.plan.is_to_end_well(plan.records_per_key_max) || (struck.is_none() && !drained);
    if is_to_end_well && (!all_arrived || ends != [HeardEnd::Well; 2]) {
        wrong.push(format!(
            "to end well: {ends:?}, {} of {} bytes from the plain side, {} of {} to it, {:?}",
            tls.heard_bytes.get(),
            run.said[0].borrow().len(),
            plain.heard_bytes.get(),
            run.said[1].borrow().len(),
            run.outcome.borrow(),
        ));
    }
    let client = if run.role == Role::Client { &plain } else { &tls };
    if run.plan.is_to_end_well(plan.records_per_key_max) && client.replies_heard.get() != client.calls_made() {
        wrong.push(format!("{} replies to {} calls", client.replies_heard.get(), client.calls_made()));
    }
    if struck.is_some() {
        wrong.extend(after_fault(run, drained, ends, [plain.ended_well.get(), tls.ended_well.get()]));
    }
    if drained && run.plan.fault.is_none() {
        wrong.extend(after_drain(run, &plain, &tls));
    }
    let is_survivor = plan.connections.first().is_some_and(|first| first.secret.seed == run.plan.secret.seed);
    let [from_plain, to_plain] = bytes_compared(run);
    if is_survivor && (from_plain.min(to_plain) as usize) < BYTES_EACH_WAY_MIN && run.plan.client.stream.is_none() {
        wrong.push(format!("{from_plain} and {to_plain} bytes are not enough"));
    }
    wrong
}

/// What may never be, whatever happened.
fn never(run: &Run, plain: &Peer, tls: &Peer, drained: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let is_13 = run.plan.secret.version == Version::Tls13;
    // Both have nothing more to say, and a cut path has swallowed the TLS peer's close_notify: then it is not waited for.
    let both_done = run.plan.fault == Some(Fault::PathCut) && plain.ended_well.get();
    // A clean end is never a lie.
    if plain.heard_end.get() == HeardEnd::Well && !drained && !both_done {
        if !tls.ended_well.get() {
            wrong.push("FIN on the plain side, though the TLS peer has not closed".into());
        }
        if plain.heard_bytes.get() != run.said[1].borrow().len() {
            wrong.push(format!("FIN behind {} of {} bytes", plain.heard_bytes.get(), run.said[1].borrow().len()));
        }
    }
    let stopped = run.plan.fault == Some(Fault::Stopped);
    if tls.heard_end.get() == HeardEnd::Well && !drained && !stopped && is_13 {
        if !plain.ended_well.get() {
            wrong.push("close_notify on the TLS side, though the plain peer has not ended".into());
        }
        if tls.heard_bytes.get() != run.said[0].borrow().len() {
            wrong.push(format!(
                "close_notify behind {} of {} bytes",
                tls.heard_bytes.get(),
                run.said[0].borrow().len()
            ));
        }
    }
    wrong
}

/// Behind a fault there is an error, on both sides; unless the other direction had ended well before.
fn after_fault(
    run: &Run,
    drained: bool,
    [plain_end, tls_end]: [HeardEnd; 2],
    [plain_ended, tls_ended]: [bool; 2],
) -> Vec<String> {
    let mut wrong = Vec::new();
    let Some(fault) = run.plan.fault else { return wrong };
    let outcome = run.outcome.borrow();
    let failure = outcome.as_ref().and_then(|outcome| outcome.failure.as_ref());
    if fault == Fault::HandshakeChanged {
        // Some bytes of a handshake mean nothing. What may never be has been looked at.
        return wrong;
    }
    // Whoever has said close_notify under TLS 1.2 gets ours at once, wherever the plain side stands.
    let renounced =
        drained || (fault == Fault::PathCut && plain_ended) || (tls_ended && run.plan.secret.version == Version::Tls12);
    // A tunnel may stop at the moment at which a connection ends by itself.
    if outcome.is_some() && failure.is_none() && !renounced && fault != Fault::Stopped {
        wrong.push("the session ended well behind a fault".into());
    }
    let plain_fits = matches!(plain_end, HeardEnd::Reset | HeardEnd::Open)
        || (plain_end == HeardEnd::Well && (tls_ended || renounced));
    if !plain_fits && !run.plan.shakes_hands {
        wrong.push(format!("the plain side heard {plain_end:?}"));
    }
    let expected: &[u8] = match fault {
        Fault::RecordChanged | Fault::RecordDropped | Fault::RecordRepeated => &[20],
        Fault::RecordTooLong => &[22],
        Fault::RecordOfNoType | Fault::Flood | Fault::Interleaved => &[10],
        Fault::Garbage => &[10, 20, 22, 50, 70],
        Fault::FatalAlert | Fault::PathCut | Fault::TlsReset | Fault::TlsEndInRecord | Fault::TlsEndWithoutClose => &[],
        _ => &[80, 0],
    };
    let fits = match tls_end {
        HeardEnd::Alert(description) => expected.contains(&description),
        HeardEnd::Well => fault == Fault::Stopped || plain_ended || renounced,
        _ => true,
    };
    if !fits && !run.plan.shakes_hands {
        wrong.push(format!("the TLS side heard {tls_end:?} after {fault:?}"));
    }
    let is_named = match (fault, failure) {
        (_, None) => true,
        (_, Some(SessionError::Tls(TlsError::KeyExhausted))) => drained,
        // One direction had ended: then the clock of a half-closed connection is the shorter one.
        (Fault::ServerSilent | Fault::HalfARecord | Fault::PathCut, Some(SessionError::Truncated { .. })) => true,
        (Fault::ServerSilent, Some(error)) => matches!(error, SessionError::Silent { .. }),
        (Fault::PeerTakesNothing, Some(error)) => matches!(error, SessionError::Stalled { .. }),
        (Fault::HalfARecord, Some(error)) => {
            matches!(
                error,
                SessionError::HalfRecord { .. } | SessionError::Silent { .. } | SessionError::Stalled { .. }
            )
        }
        (Fault::PathCut, Some(error)) => matches!(error, SessionError::Unreachable { .. }),
        (Fault::Stopped, Some(error)) => matches!(error, SessionError::Stopped),
        _ => true,
    };
    if !is_named {
        wrong.push(format!("{fault:?} was called {failure:?}"));
    }
    wrong
}

/// No call that reached its server is left without its reply (see `Shared::records_max`).
fn after_drain(run: &Run, plain: &Peer, tls: &Peer) -> Vec<String> {
    let outcome = run.outcome.borrow();
    let failed = outcome.as_ref().and_then(|outcome| outcome.failure.as_ref());
    let (client, server) = match run.role {
        Role::Client => (plain, tls),
        Role::Server => (tls, plain),
    };
    let (made, answered) = (server.calls_heard.get(), client.replies_heard.get());
    let takes_its_time = run.plan.server.pauses > 0 || run.plan.client.pauses > 0;
    if failed.is_none() && made != answered && !takes_its_time {
        vec![format!("the key was used up with {made} calls made and {answered} answered")]
    } else {
        Vec::new()
    }
}
