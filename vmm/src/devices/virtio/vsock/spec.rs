//! Numbers of OASIS VIRTIO 1.2, section 5.10 "Socket Device":
//! <https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html>.

/// §5.10.1, device ID.
pub(super) const DEVICE_ID: u32 = 19;

/// §5.10.2, virtqueues: device to driver.
pub(super) const RX_QUEUE: usize = 0;
/// §5.10.2, virtqueues: driver to device.
pub(super) const TX_QUEUE: usize = 1;
/// §5.10.2, virtqueues: `VIRTIO_VSOCK_EVENT_*`.
pub(super) const EVENT_QUEUE: usize = 2;

/// §5.10.3, feature bit: stream sockets.
pub(super) const VIRTIO_VSOCK_F_STREAM: u64 = 1 << 0;

/// §5.10.4, the well-known CID of the host.
pub(super) const HOST_CID: u64 = 2;
/// §5.10.4: 0, 1, 2 and `0xffff_ffff` are reserved.
pub(super) const MIN_GUEST_CID: u32 = 3;

/// §5.10.6, the bytes of `struct virtio_vsock_hdr`.
pub(super) const HEADER_LEN: usize = HEADER_LEN_U32 as usize;
/// The same, as the used ring counts bytes.
pub(super) const HEADER_LEN_U32: u32 = 44;

/// §5.10.6, `VIRTIO_VSOCK_TYPE_STREAM`.
pub(super) const TYPE_STREAM: u16 = 1;

/// §5.10.6, `VIRTIO_VSOCK_OP_REQUEST`: connect.
pub(super) const OP_REQUEST: u16 = 1;
/// §5.10.6, `VIRTIO_VSOCK_OP_RESPONSE`: the connection is accepted.
pub(super) const OP_RESPONSE: u16 = 2;
/// §5.10.6, `VIRTIO_VSOCK_OP_RST`: the connection is refused or has ended.
pub(super) const OP_RST: u16 = 3;
/// §5.10.6, `VIRTIO_VSOCK_OP_SHUTDOWN`: see the flags.
pub(super) const OP_SHUTDOWN: u16 = 4;
/// §5.10.6, `VIRTIO_VSOCK_OP_RW`: payload.
pub(super) const OP_RW: u16 = 5;
/// §5.10.6, `VIRTIO_VSOCK_OP_CREDIT_UPDATE`: only the credit fields matter.
pub(super) const OP_CREDIT_UPDATE: u16 = 6;
/// §5.10.6, `VIRTIO_VSOCK_OP_CREDIT_REQUEST`: asks for a credit update.
pub(super) const OP_CREDIT_REQUEST: u16 = 7;

/// §5.10.6.5, hint in `flags` of a shutdown: the sender will receive no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// §5.10.6.5, hint in `flags` of a shutdown: the sender will send no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both hints: the sender is done with the connection and waits for a reset.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// The largest payload that Linux puts into one packet (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`,
/// include/linux/virtio_vsock.h). The specification has no bound; we take no more.
pub(super) const MAX_PAYLOAD: usize = 64 * 1024;
