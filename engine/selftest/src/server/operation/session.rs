//! Clients and sessions: EXCHANGE_ID to DESTROY_CLIENTID, and the operations about stateids as such.

use crate::limits::{
    HANDLE_BYTES_MAX, OPAQUE_BYTES_MAX, OPERATIONS_MAX, RECORD_BYTES_MAX, REPLY_CACHED_BYTES_MAX, SLOTS_MAX,
};
use crate::nfs4::{Stateid, Status};
use crate::server::clients::Channel;
use crate::server::compound::Compound;
use crate::server::export::Export;
use crate::xdr::{Decoder, Encoder};

const UPD_CONFIRMED_REC_A: u32 = 0x4000_0000;
const CONFIRMED_R: u32 = 0x8000_0000;
const USE_NON_PNFS: u32 = 0x0001_0000;
/// What a client may say in EXCHANGE_ID (RFC 8881 section 18.35.1).
const EXCHANGE_FLAGS: u32 = UPD_CONFIRMED_REC_A | 0x0007_0103;

const SP4_NONE: u32 = 0;
const SP4_MACH_CRED: u32 = 1;

const CONN_BACK_CHAN: u32 = 2;

/// Stateids in one TEST_STATEID: more do not fit into a request without a payload.
const STATEIDS_MAX: usize = crate::limits::COMPOUND_BYTES_MAX / 16;

/// Security parameters for callbacks that one CREATE_SESSION names; Linux names one.
const CALLBACK_PARAMETERS_MAX: usize = 8;

/// The smallest request and response that any use can be made of.
const CHANNEL_BYTES_MIN: u32 = 512;

/// Takes `channel_attrs4` off a request and makes what we grant of it.
fn negotiate(from: &mut Decoder<'_>) -> Result<Channel, Status> {
    let _header_pad = from.u32()?;
    let (request, response, cached) = (from.u32()?, from.u32()?, from.u32()?);
    let (operations, requests) = (from.u32()?, from.u32()?);
    from.count(1).and_then(|count| if count == 1 { from.u32().map(drop) } else { Ok(()) })?;
    if request < CHANNEL_BYTES_MIN || response < CHANNEL_BYTES_MIN || operations == 0 || requests == 0 {
        return Err(Status::TOOSMALL);
    }
    Ok(Channel {
        request_bytes_max: request.min(RECORD_BYTES_MAX as u32),
        response_bytes_max: response.min(RECORD_BYTES_MAX as u32),
        response_cached_bytes_max: cached.min(REPLY_CACHED_BYTES_MAX as u32),
        operations_max: operations.min(OPERATIONS_MAX as u32),
        slots: requests.min(SLOTS_MAX),
    })
}

fn encode_channel(channel: &Channel, to: &mut Encoder) {
    let Channel { request_bytes_max, response_bytes_max, response_cached_bytes_max, operations_max, slots } = *channel;
    // No padding in front of payloads, and no RDMA.
    to.words([0, request_bytes_max, response_bytes_max, response_cached_bytes_max, operations_max, slots, 0]);
}

/// Steps over `callback_sec_parms4`: there are no callbacks.
fn skip_callback_parameters(from: &mut Decoder<'_>) -> Result<(), Status> {
    for _ in 0..from.count(CALLBACK_PARAMETERS_MAX)? {
        match from.u32()? {
            0 => {}
            1 => {
                let (_stamp, _machine, _uid, _gid) = (from.u32()?, from.opaque(255)?, from.u32()?, from.u32()?);
                for _ in 0..from.count(16)? {
                    from.u32()?;
                }
            }
            6 => {
                let (_service, _server, _client) =
                    (from.u32()?, from.opaque(HANDLE_BYTES_MAX)?, from.opaque(HANDLE_BYTES_MAX)?);
            }
            _ => return Err(Status::INVAL),
        }
    }
    Ok(())
}

impl Compound<'_> {
    pub(in crate::server) fn exchange_id(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let (verifier, owner, flags) = (from.fixed()?, from.opaque(OPAQUE_BYTES_MAX)?, from.u32()?);
        if flags & !EXCHANGE_FLAGS != 0 {
            return Err(Status::INVAL);
        }
        match from.u32()? {
            SP4_NONE => {}
            // It needs RPCSEC_GSS, which is not spoken here.
            SP4_MACH_CRED => return Err(Status::INVAL),
            _ => return Err(Status::ENCR_ALG_UNSUPP),
        }
        if from.count(1)? == 1 {
            let (_domain, _name, _date) =
                (from.opaque(OPAQUE_BYTES_MAX)?, from.opaque(OPAQUE_BYTES_MAX)?, (from.u64()?, from.u32()?));
        }
        let mut gone = Vec::new();
        let update = flags & UPD_CONFIRMED_REC_A != 0;
        let exchanged = self.export.clients().exchange((owner, verifier), update, Export::now(), &mut gone);
        gone.iter().for_each(|client| self.export.opens().forget_client(*client));
        let exchanged = exchanged?;
        let name = format!("sealane-selftest {:016x}", self.export.instance);
        let out = &mut self.out.bytes;
        out.u64(exchanged.client);
        out.u32(exchanged.sequence);
        out.u32(USE_NON_PNFS | if exchanged.confirmed { CONFIRMED_R } else { 0 });
        out.u32(SP4_NONE);
        out.u64(0); // the minor part of the server's owner
        out.opaque(name.as_bytes());
        out.opaque(name.as_bytes()); // the scope of its handles and owners
        out.u32(0); // no implementation id
        Ok(())
    }

    pub(in crate::server) fn create_session(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let (client, sequence, flags) = (from.u64()?, from.u32()?, from.u32()?);
        if flags & !7 != 0 {
            return Err(Status::INVAL);
        }
        let (fore, back) = (negotiate(from)?, negotiate(from)?);
        let _program = from.u32()?;
        skip_callback_parameters(from)?;
        let mut gone = Vec::new();
        let channels = (fore, back, flags & CONN_BACK_CHAN);
        let created = self.export.clients().create_session((client, sequence), channels, &mut gone);
        gone.iter().for_each(|client| self.export.opens().forget_client(*client));
        let created = created?;
        let out = &mut self.out.bytes;
        out.fixed(&created.session);
        out.u32(created.sequence);
        out.u32(created.flags);
        encode_channel(&created.fore, out);
        encode_channel(&created.back, out);
        Ok(())
    }

    pub(in crate::server) fn bind_conn_to_session(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let (id, direction, _rdma) = (from.fixed()?, from.u32()?, from.bool()?);
        self.export.clients().session(&id, Export::now())?;
        // CDFC4_FORE, BACK, FORE_OR_BOTH, BACK_OR_BOTH; granted are FORE, BACK, BOTH.
        let granted = match direction {
            1 | 2 => direction,
            3 | 7 => 3,
            _ => return Err(Status::INVAL),
        };
        self.out.bytes.fixed(&id);
        self.out.bytes.u32(granted);
        self.out.bytes.bool(false);
        Ok(())
    }

    pub(in crate::server) fn destroy_session(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let id = from.fixed()?;
        self.export.clients().destroy_session(&id)
    }

    pub(in crate::server) fn destroy_clientid(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let client = from.u64()?;
        let mut clients = self.export.clients();
        if self.export.opens().any_of(client) {
            return Err(Status::CLIENTID_BUSY);
        }
        clients.destroy_client(client)
    }

    pub(in crate::server) fn reclaim_complete(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let one_file_system = from.bool()?;
        let client = self.client()?;
        // Nothing is ever reclaimed, so for one file system there is nothing to note.
        if one_file_system { self.current().map(drop) } else { self.export.clients().reclaim_complete(client) }
    }

    pub(in crate::server) fn test_stateid(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let client = self.client()?;
        let count = from.count(STATEIDS_MAX)?;
        self.out.bytes.u32(count as u32); // at most STATEIDS_MAX
        let mut opens = self.export.opens();
        for _ in 0..count {
            let status = opens.test(client, &Stateid::decode(from)?);
            self.out.bytes.u32(status.0);
        }
        Ok(())
    }

    pub(in crate::server) fn free_stateid(&mut self, from: &mut Decoder<'_>) -> Result<(), Status> {
        let client = self.client()?;
        let stateid = self.decode_stateid(from)?;
        match self.export.opens().free(client, &stateid) {
            Status::OK => Ok(()),
            other => Err(other),
        }
    }
}
