//! Register offsets and constants of the MMIO transport.
//!
//! Virtual I/O Device (VIRTIO) Version 1.2, section 4.2.2, table 4.1:
//! <https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html>

/// The length of the register window of one device. Configuration space ends with it.
pub const REGION_LEN: u64 = 0x1000;

/// `MagicValue`.
pub(super) const MAGIC_VALUE: u64 = 0x000;
/// `Version`.
pub(super) const VERSION: u64 = 0x004;
/// `DeviceID`.
pub(super) const DEVICE_ID: u64 = 0x008;
/// `VendorID`.
pub(super) const VENDOR_ID: u64 = 0x00c;
/// `DeviceFeatures`.
pub(super) const DEVICE_FEATURES: u64 = 0x010;
/// `DeviceFeaturesSel`.
pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
/// `DriverFeatures`.
pub(super) const DRIVER_FEATURES: u64 = 0x020;
/// `DriverFeaturesSel`.
pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
/// `QueueSel`.
pub(super) const QUEUE_SEL: u64 = 0x030;
/// `QueueNumMax`.
pub(super) const QUEUE_NUM_MAX: u64 = 0x034;
/// `QueueNum`.
pub(super) const QUEUE_NUM: u64 = 0x038;
/// `QueueReady`.
pub(super) const QUEUE_READY: u64 = 0x044;
/// `QueueNotify`: where the driver writes the number of a queue that has new chains.
pub const QUEUE_NOTIFY: u64 = 0x050;
/// `InterruptStatus`.
pub(super) const INTERRUPT_STATUS: u64 = 0x060;
/// `InterruptACK`.
pub(super) const INTERRUPT_ACK: u64 = 0x064;
/// `Status`.
pub(super) const STATUS: u64 = 0x070;
/// `QueueDescLow`.
pub(super) const QUEUE_DESC_LOW: u64 = 0x080;
/// `QueueDescHigh`.
pub(super) const QUEUE_DESC_HIGH: u64 = 0x084;
/// `QueueDriverLow`.
pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
/// `QueueDriverHigh`.
pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
/// `QueueDeviceLow`.
pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
/// `QueueDeviceHigh`.
pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
/// `SHMLenLow`.
pub(super) const SHM_LEN_LOW: u64 = 0x0b0;
/// `SHMLenHigh`.
pub(super) const SHM_LEN_HIGH: u64 = 0x0b4;
/// `SHMBaseLow`.
pub(super) const SHM_BASE_LOW: u64 = 0x0b8;
/// `SHMBaseHigh`.
pub(super) const SHM_BASE_HIGH: u64 = 0x0bc;
/// `ConfigGeneration`.
pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
/// `Config`: the device's configuration space starts here.
pub(super) const CONFIG: u64 = 0x100;

/// The value of `MagicValue`: "virt".
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The value of `Version`: not legacy.
pub(super) const VERSION_2: u32 = 2;
/// The value of `VendorID`: ours; drivers do not look at it.
pub(super) const VENDOR: u32 = u32::from_le_bytes(*b"SVRN");
