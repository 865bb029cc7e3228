//! Packet headers. `parse` and `emit` are inverses for headers of known operations.

/// Bytes of a header.
pub const HEADER_BYTES: usize = 44;
/// The only type: streams.
const TYPE_STREAM: u16 = 1;

/// What a packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Asks for a connection.
    Request,
    /// Grants it.
    Response,
    /// Ends or refuses it.
    Reset,
    /// Ends directions of it, as the flags say.
    Shutdown,
    /// Carries data.
    Data,
    /// Tells buffer space.
    CreditUpdate,
    /// Asks for a [`Operation::CreditUpdate`].
    CreditRequest,
}

impl Operation {
    const ALL: [Operation; 7] = [
        Operation::Request,
        Operation::Response,
        Operation::Reset,
        Operation::Shutdown,
        Operation::Data,
        Operation::CreditUpdate,
        Operation::CreditRequest,
    ];

    fn number(self) -> u16 {
        match self {
            Operation::Request => 1,
            Operation::Response => 2,
            Operation::Reset => 3,
            Operation::Shutdown => 4,
            Operation::Data => 5,
            Operation::CreditUpdate => 6,
            Operation::CreditRequest => 7,
        }
    }

    fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.number() == number)
    }
}

/// [`Header::flags`] of a shutdown: the sender will receive no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// [`Header::flags`] of a shutdown: the sender will send no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both directions.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// A packet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Address of the sender.
    pub src_cid: u64,
    /// Address of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes of payload.
    pub len: u32,
    /// What it does; `None` for a type or an operation that does not exist.
    pub operation: Option<Operation>,
    /// Meaning depends on the operation.
    pub flags: u32,
    /// The sender's buffer for this connection.
    pub buf_alloc: u32,
    /// Bytes that the sender's application has read, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// Reads a header; nothing in it is checked but type and operation.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let operation = Operation::from_number(u16_at(30)).filter(|_| u16_at(28) == TYPE_STREAM);
        Header {
            src_cid: u64_at(0),
            dst_cid: u64_at(8),
            src_port: u32_at(16),
            dst_port: u32_at(20),
            len: u32_at(24),
            operation,
            flags: u32_at(32),
            buf_alloc: u32_at(36),
            fwd_cnt: u32_at(40),
        }
    }

    /// The bytes of the header.
    pub fn emit(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.src_cid.to_le_bytes());
        put(8, &self.dst_cid.to_le_bytes());
        put(16, &self.src_port.to_le_bytes());
        put(20, &self.dst_port.to_le_bytes());
        put(24, &self.len.to_le_bytes());
        put(28, &TYPE_STREAM.to_le_bytes());
        put(30, &self.operation.map_or(0, Operation::number).to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buf_alloc.to_le_bytes());
        put(40, &self.fwd_cnt.to_le_bytes());
        bytes
    }
}
