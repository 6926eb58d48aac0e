//! What must be true of a connection when it is over.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use sealane_proto::tls::{Role, TlsError, Version};
use sealane_relay::{SessionError, Timeouts};

use crate::moment::Moment;
use crate::peer::{HeardEnd, Peer};
use crate::plan::{BYTES_EACH_WAY_MIN, Plan};
use crate::stats::Fault;
use crate::world::Run;

/// What a session may stand still for, of which nothing is wrong and whose peers have something to say: not even for the
/// shortest of the relay's ticks. What was on its way when the measuring began is within it.
const STILL_MAX: Duration = Duration::from_millis(45);

/// A TLS 1.2 stream that is not RPC is closed when it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(550);

/// Before a TLS 1.2 close_notify the relay waits for replies that are due, and looks for the last one so often.
const HOLD_BACK_TICK: Duration = Duration::from_millis(50);

/// Whether the peer has closed is looked for so often.
const CLOSE_TICK: Duration = Duration::from_millis(50);

/// A reset is looked for so often while a send waits for the other side.
const RESET_TO_END_MAX: Duration = Duration::from_millis(500);

/// From a revocation to the end of its session, whoever pauses: five seconds for what is owed, five for close_notify.
const REVOKED_TO_END_MAX: Duration = Duration::from_secs(12);

/// From a fault to the end of its session, apart from what the network and the peers take.
fn fault_to_end_max(run: &Run, fault: Fault, drained: bool) -> Duration {
    let is_13 = run.plan.secret.version == Version::Tls13;
    let never_ended =
        |peer: &RefCell<Option<Rc<Peer>>>| peer.borrow().as_ref().is_some_and(|peer| peer.struck.get().is_some());
    let limit = match fault {
        // Its clock is 180 s, and looked at every 3.75 s.
        Fault::ServerSilent
        | Fault::PeerTakesNothing
        | Fault::HalfARecord
        | Fault::HandshakeStalled
        | Fault::HandshakeChanged => Duration::from_secs(185),
        // TCP asks an idle peer after 30 s, and 30 s later it is given up.
        Fault::PathCut => Duration::from_secs(65),
        Fault::ConnectHangs => Duration::from_secs(13),
        Fault::ConnectRefused | Fault::NameUnknown | Fault::HandshakeCut => Duration::from_secs(1),
        Fault::NeverEnds if never_ended(&run.tls) => Timeouts::DEFAULT.close,
        Fault::NeverEnds if is_13 => Timeouts::DEFAULT.half_close,
        Fault::PlainReset | Fault::TlsReset => RESET_TO_END_MAX,
        _ => Duration::ZERO,
    };
    let drain = if drained { Timeouts::DEFAULT.drain } else { Duration::ZERO };
    // The shortest tick of a wait that nothing else ends.
    limit + drain + STILL_MAX + Duration::from_millis(250)
}

/// Whether the relay has found that one of its directions is not RPC.
fn is_not_rpc(run: &Run) -> bool {
    let kinds = [Fault::ZeroFragment, Fault::AbsurdMark, Fault::NotRpcMidway, Fault::NoMessage];
    run.plan.client.stream.is_some() || run.plan.oddity.is_some_and(|oddity| kinds.contains(&oddity))
}

/// How long a session that ends well may have stood still from its beginning to its end.
fn still_max(run: &Run, drained: bool) -> Duration {
    let is_12 = run.plan.secret.version == Version::Tls12;
    let quiet = match run.role {
        _ if is_12 && is_not_rpc(run) => QUIET,
        Role::Client if is_12 => HOLD_BACK_TICK,
        _ => Duration::ZERO,
    };
    let drain = if drained { Timeouts::DEFAULT.drain } else { Duration::ZERO };
    // Whoever idles does not answer close_notify.
    let idles = run.revoked.get().is_some() && run.plan.client.idle.is_some();
    let close = if idles { Timeouts::DEFAULT.close + CLOSE_TICK } else { Duration::ZERO };
    STILL_MAX + quiet + drain + close
}

/// How many bytes were compared: from the plain side, and to it.
pub(crate) fn bytes_compared(run: &Run) -> [u64; 2] {
    let heard = |peer: &Option<Rc<Peer>>| peer.as_ref().map_or(0, |peer| peer.heard_bytes.get() as u64);
    [heard(&run.tls.borrow()), heard(&run.plain.borrow())]
}

fn struck(run: &Run) -> Option<Moment> {
    let struck_by = |peer: &RefCell<Option<Rc<Peer>>>| peer.borrow().as_ref().and_then(|peer| peer.struck.get());
    struck_by(&run.plain).or(struck_by(&run.tls)).or(run.unreached.get())
}

/// How long its session took from the fault to its end; without a fault, how long it stood still.
pub(crate) fn time_to_end(run: &Run) -> Option<(Fault, Duration)> {
    let ended = run.ended.get().or(run.over.get())?;
    let drained = run.outcome.borrow().as_ref().is_some_and(|outcome| outcome.drained);
    match (run.plan.fault, struck(run)) {
        // A reset is noticed whatever the other peer does.
        (Some(fault @ (Fault::PlainReset | Fault::TlsReset)), Some(struck)) => Some((fault, ended.since(struck))),
        (Some(fault), Some(struck)) => Some((fault, ended.unexplained_since(struck))),
        (_, _) if run.plan.shakes_hands => None,
        (kind, None) => {
            let kind = if drained { Some(Fault::KeyUsedUp) } else { kind.or(run.plan.oddity) };
            Some((kind.unwrap_or(Fault::ShortRead), ended.stood_still_since(run.started)))
        }
        (None, Some(_)) => None,
    }
}

/// One session's fault never touches another, and nothing waits for a clock that nobody has to wait for.
fn in_time(run: &Run, drained: bool) -> Option<String> {
    let (kind, took) = time_to_end(run)?;
    match struck(run) {
        Some(_) if took > fault_to_end_max(run, kind, drained) => {
            Some(format!("over {} ms after the fault", took.as_millis()))
        }
        None if took > still_max(run, drained) => Some(format!("stood still for {} ms", took.as_millis())),
        _ => None,
    }
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
    if let Some(panic) = &*run.panic.borrow() {
        wrong.push(format!("panic: {panic}"));
    }
    let struck = struck(run);
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
    wrong.extend(in_time(run, drained));
    wrong.extend(never(run, &plain, &tls, drained));
    let all_arrived =
        tls.heard_bytes.get() == run.said[0].borrow().len() && plain.heard_bytes.get() == run.said[1].borrow().len();
    let is_early = run.plan.fault == Some(Fault::EarlyClose) && struck.is_none();
    let is_to_end_well = run.plan.is_to_end_well(plan.records_per_key_max) || (struck.is_none() && !drained);
    // Whoever has left has heard nothing.
    let plain_is_well = ends[0] == HeardEnd::Well || run.plan.oddity == Some(Fault::OrderlyClose);
    if is_to_end_well && !is_early && (!all_arrived || !plain_is_well || ends[1] != HeardEnd::Well) {
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
    if is_early && !drained {
        wrong.extend(after_early_close(run, &plain, ends));
    }
    if run.plan.fault == Some(Fault::NeverEnds) && struck.is_some() {
        wrong.extend(after_the_other_end(run, all_arrived, ends));
    } else if struck.is_some() {
        wrong.extend(after_fault(run, drained, ends, [plain.ended_well.get(), tls.ended_well.get()]));
        // What flies when a connection is reset may be lost.
        let takes_nothing = run.plan.fault == Some(Fault::PeerTakesNothing) && tls.struck.get().is_some();
        let was_left_untold = ends[1] == HeardEnd::Reset && tls.was_left_untold.get() && !takes_nothing;
        if was_left_untold && plan.weather.slow == 0 && is_told(run) {
            wrong.push("the TLS peer was reset and not told why".into());
        }
    }
    wrong.extend(after_revocation(run));
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
    // Both have nothing more to say, and a cut path has swallowed the TLS peer's close_notify, or it never comes: then it is
    // not waited for.
    let never_ends = run.plan.fault == Some(Fault::NeverEnds);
    let both_done = (run.plan.fault == Some(Fault::PathCut) || never_ends) && plain.ended_well.get();
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
    if stopped && tls.heard_end.get() == HeardEnd::Well && !tls.is_at_boundary() && !plain.ended_well.get() {
        wrong.push("close_notify inside an RPC record, when the tunnel stopped".into());
    }
    if tls.heard_end.get() == HeardEnd::Well && !drained && !stopped && !never_ends && is_13 {
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

/// A TLS 1.2 close_notify renounces what is outstanding: it is answered at once, and what came before it still arrives.
fn after_early_close(run: &Run, plain: &Peer, [plain_end, tls_end]: [HeardEnd; 2]) -> Vec<String> {
    let mut wrong = Vec::new();
    // A plain peer that goes on writing to a connection that is over is reset.
    if plain.heard_bytes.get() != run.said[1].borrow().len() || !matches!(plain_end, HeardEnd::Well | HeardEnd::Reset) {
        let heard = plain.heard_bytes.get();
        wrong.push(format!("{plain_end:?} behind {heard} of {} bytes before close_notify", run.said[1].borrow().len()));
    }
    if tls_end != HeardEnd::Well {
        wrong.push(format!("close_notify was answered by {tls_end:?}"));
    }
    wrong
}

/// One direction ended and the other one never does, with nothing outstanding: both hear that it is over.
fn after_the_other_end(run: &Run, all_arrived: bool, ends: [HeardEnd; 2]) -> Vec<String> {
    let outcome = run.outcome.borrow();
    let failure = outcome.as_ref().and_then(|outcome| outcome.failure.as_ref());
    match all_arrived && ends == [HeardEnd::Well; 2] && failure.is_none() {
        true => Vec::new(),
        false => vec![format!("a peer that never ends: {ends:?}, all bytes: {all_arrived}, {failure:?}")],
    }
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
    let expected = alerts_of(fault);
    let fits = match tls_end {
        // Nothing may look like an end that is none.
        HeardEnd::Bare | HeardEnd::Open => false,
        HeardEnd::Alert(description) => expected.contains(&description),
        HeardEnd::Well => fault == Fault::Stopped || plain_ended || renounced,
        _ => true,
    };
    if !fits && !run.plan.shakes_hands {
        wrong.push(format!("the TLS side heard {tls_end:?} after {fault:?}"));
    }
    let is_named = match (fault, failure) {
        (_, None) => true,
        (_, Some(SessionError::Tls(TlsError::KeyExhausted) | SessionError::Revoked(_))) => drained,
        (_, Some(SessionError::Stopped)) if run.plan.leaves => drained,
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
        // Where nothing was under way, TCP itself has noticed.
        (Fault::PathCut, Some(SessionError::Io { source, .. })) => source.kind() == io::ErrorKind::TimedOut,
        (Fault::PathCut, Some(error)) => matches!(error, SessionError::Unreachable { .. }),
        (Fault::Stopped, Some(error)) => matches!(error, SessionError::Stopped),
        _ => true,
    };
    if !is_named {
        wrong.push(format!("{fault:?} was called {failure:?}"));
    }
    wrong
}

/// Which alerts may tell the TLS peer of a fault.
fn alerts_of(fault: Fault) -> &'static [u8] {
    match fault {
        Fault::RecordChanged | Fault::RecordDropped | Fault::RecordRepeated => &[20],
        Fault::RecordTooLong => &[22],
        Fault::RecordOfNoType | Fault::Flood | Fault::Interleaved | Fault::KeyUpdateNotLast | Fault::AlertInMessage => {
            &[10]
        }
        Fault::Garbage => &[10, 20, 22, 50, 70],
        Fault::FatalAlert | Fault::PathCut | Fault::TlsReset | Fault::TlsEndInRecord | Fault::TlsEndWithoutClose => &[],
        _ => &[80, 0],
    }
}

/// Whether the TLS peer must be told what was wrong.
fn is_told(run: &Run) -> bool {
    // A half-closed connection whose TLS peer says nothing more ends like one that was cut off.
    let outcome = run.outcome.borrow();
    let failure = outcome.as_ref().and_then(|outcome| outcome.failure.as_ref());
    if matches!(failure, Some(SessionError::Truncated { .. })) && run.plan.fault != Some(Fault::PlainEndInRecord) {
        return false;
    }
    let listens = |peer: &Option<Rc<Peer>>| {
        run.plan.fault != Some(Fault::PeerTakesNothing) || peer.as_ref().is_some_and(|peer| peer.struck.get().is_none())
    };
    if !listens(&run.tls.borrow()) {
        return false;
    }
    !run.plan.shakes_hands && run.plan.fault.is_some_and(|fault| !alerts_of(fault).is_empty())
}

/// It is not left to the peers when a session ends whose certificate was revoked.
fn after_revocation(run: &Run) -> Option<String> {
    let took = run.ended.get()?.since(run.revoked.get()?);
    (took > REVOKED_TO_END_MAX).then(|| format!("over {} s after a certificate was revoked", took.as_secs()))
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
        vec![format!("drained with {made} calls made and {answered} answered")]
    } else {
        Vec::new()
    }
}
