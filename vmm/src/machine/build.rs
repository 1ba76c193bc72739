//! The recipe: from a configuration to a machine that stands before its first instruction.

use std::iter::once;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::GuestAddress;

use super::board::Board;
use super::error::{DeviceError, MachineError};
use super::files::BootFiles;
use super::running::{EventLoop, Parts, Running, StopWatch};
use super::{ThreadRole, Trace};
use crate::arch::native::cpu::{self, CpuTemplate};
use crate::arch::native::layout::{self, VirtioSlot};
use crate::arch::native::loader::{self, Entry, Payload};
use crate::arch::native::topology::Topology;
use crate::arch::native::{acpi, ioapic, mptable};
use crate::bus::Buses;
use crate::cmdline::CommandLine;
use crate::config::{DeviceDiscovery, MAX_DISKS, MAX_VCPUS, MIN_MEMORY_MIB, MachineConfig};
use crate::devices::serial::Console;
use crate::devices::virtio::block::Block;
use crate::devices::virtio::block::lanes::LaneDisk;
use crate::devices::virtio::entropy::Entropy;
use crate::devices::virtio::vsock::Vsock;
use crate::kvm::{self, KvmError};
use crate::memory::{self, GuestRam, GuestRamHandle};
use crate::stop::StopSignal;
use crate::vcpu::Vcpus;

/// How long new threads get to confine themselves.
const THREAD_DEADLINE: Duration = Duration::from_secs(10);

/// What a machine may have of virtio devices beside its disks: the socket device, its lanes and entropy.
const OTHER_DEVICES: usize = 3;
const _: () = assert!(
    MAX_DISKS + OTHER_DEVICES <= layout::VIRTIO_GSIS.len(),
    "there is a place for every device"
);

/// A machine that has not run yet.
pub struct Machine {
    vm: Arc<VmFd>,
    memory: GuestRamHandle,
    vcpus: Vec<VcpuFd>,
    buses: Arc<Buses>,
    events: EventLoop,
    disks: Vec<Arc<Mutex<Block>>>,
    vsock: Option<Arc<Mutex<Vsock>>>,
    console: Console,
    stop: StopSignal,
}

impl Machine {
    /// Builds a machine.
    ///
    /// # Errors
    /// Says what was being done; [`MachineError::hint`] says what the user can do.
    pub fn build(config: &MachineConfig, trace: &mut Trace) -> Result<Self, MachineError> {
        check(config)?;
        let topology = Topology::new(config.vcpus);
        let ram_size = u64::from(config.memory_mib) << 20;

        let kvm = kvm::open()?;
        let files = BootFiles::open(config)?;
        trace.mark("files-open");

        let ram = memory::allocate(&layout::ram_ranges(ram_size))?;
        let vm = Arc::new(kvm::create_vm(&kvm)?);
        trace.mark("vm-created");

        kvm::map_memory(&vm, &ram)?;
        cpu::prepare_vm(&vm)?;
        trace.mark("memory-mapped");

        let memory = GuestRamHandle::new(ram.clone());
        let stop = StopSignal::new().map_err(host("power"))?;
        let console = Console::new(config.console_bytes as usize);
        let mut board = Board::new(&vm, memory.clone()).map_err(MachineError::Events)?;
        board
            .add_serial(console.clone())
            .map_err(device("serial"))?;
        board.add_power(&stop).map_err(device("power"))?;
        let vsock = add_vsock(&mut board, config)?;
        let disks = add_disks(&mut board, config)?;
        add_entropy(&mut board, config)?;
        let Board {
            buses,
            mut events,
            virtio,
            ..
        } = board;
        StopWatch::subscribe(&mut events, &stop);
        ioapic::set_up(&vm, interrupts(&virtio))?;
        trace.mark("devices-made");

        let entry = load(
            &ram,
            ram_size,
            config,
            &files,
            &describe(&ram, config, topology, &virtio)?,
        )?;
        trace.mark("kernel-loaded");

        let vcpus = create_vcpus(&kvm, &vm, topology, entry)?;
        trace.mark("vcpus-made");
        let buses = Arc::new(buses);
        Ok(Self {
            vm,
            memory,
            vcpus,
            buses,
            events,
            disks,
            vsock,
            console,
            stop,
        })
    }

    /// Starts the machine's threads; the guest waits for [`Running::wait`]. `prepare` runs first in
    /// each of the new threads, the place to confine them, and all have done so on return.
    ///
    /// # Errors
    /// When the host refuses threads, or does not run them.
    pub fn start(
        self,
        prepare: impl Fn(ThreadRole) + Clone + Send + 'static,
    ) -> Result<Running, MachineError> {
        let (report, reports) = mpsc::channel();
        let enter = move |role| {
            prepare(role);
            // Fails when nobody waits any more, and then the thread is about to end.
            let _ = report.send(());
        };
        let threads = self.disks.len() + self.vcpus.len();
        for disk in &self.disks {
            let enter = enter.clone();
            let mut disk = disk.lock().unwrap_or_else(PoisonError::into_inner);
            disk.start_worker(move || enter(ThreadRole::Disk))
                .map_err(host("block"))?;
        }
        let enter_vcpu = move || enter(ThreadRole::Vcpu);
        let vcpus = Vcpus::spawn(self.vcpus, &self.buses, &self.stop, &enter_vcpu)?;
        for _ in 0..threads {
            reports
                .recv_timeout(THREAD_DEADLINE)
                .map_err(|_| MachineError::Threads)?;
        }
        let Self {
            stop,
            console,
            vsock,
            events,
            vm,
            memory,
            ..
        } = self;
        Ok(Running::new(
            Parts {
                stop,
                console,
                vsock,
                events,
                vm,
                memory,
            },
            vcpus,
        ))
    }
}

/// How the guest learns of its devices and CPUs.
struct Description {
    cmdline: Vec<u8>,
    rsdp: Option<GuestAddress>,
}

fn check(config: &MachineConfig) -> Result<(), MachineError> {
    if !(1..=MAX_VCPUS).contains(&config.vcpus) {
        return Err(MachineError::Vcpus {
            asked: config.vcpus,
        });
    }
    if config.memory_mib < MIN_MEMORY_MIB {
        return Err(MachineError::Memory {
            asked_mib: config.memory_mib,
        });
    }
    if config.disks.len() > MAX_DISKS {
        return Err(MachineError::Disks {
            asked: config.disks.len(),
        });
    }
    Ok(())
}

fn add_vsock(
    board: &mut Board<'_>,
    config: &MachineConfig,
) -> Result<Option<Arc<Mutex<Vsock>>>, MachineError> {
    let Some(config) = &config.vsock else {
        return Ok(None);
    };
    let vsock = Vsock::new(config).map_err(|error| device("vsock")(error.into()))?;
    let lanes = vsock.lanes();
    let vsock = Arc::new(Mutex::new(vsock));
    board.add_virtio(vsock.clone()).map_err(device("vsock"))?;
    board.subscribe(vsock.clone());
    if let Some(lanes) = lanes {
        let disk = LaneDisk::new(lanes).map_err(host("lanes"))?;
        let disk = Arc::new(Mutex::new(disk));
        board.add_virtio(disk.clone()).map_err(device("lanes"))?;
        board.subscribe(disk);
    }
    Ok(Some(vsock))
}

fn add_disks(
    board: &mut Board<'_>,
    config: &MachineConfig,
) -> Result<Vec<Arc<Mutex<Block>>>, MachineError> {
    let mut disks = Vec::with_capacity(config.disks.len());
    for (index, disk) in config.disks.iter().enumerate() {
        let block = Block::open(&disk.path, disk.read_only, index)
            .map_err(|error| device("block")(error.into()))?;
        let block = Arc::new(Mutex::new(block));
        board.add_virtio(block.clone()).map_err(device("block"))?;
        disks.push(block);
    }
    Ok(disks)
}

fn add_entropy(board: &mut Board<'_>, config: &MachineConfig) -> Result<(), MachineError> {
    if config.entropy {
        let entropy = Arc::new(Mutex::new(Entropy::new().map_err(host("entropy"))?));
        board
            .add_virtio(entropy.clone())
            .map_err(device("entropy"))?;
        board.subscribe(entropy);
    }
    Ok(())
}

/// The interrupts that a machine uses.
fn interrupts(virtio: &[VirtioSlot]) -> impl Iterator<Item = u32> {
    once(layout::SERIAL_GSI).chain(virtio.iter().map(|slot| slot.gsi))
}

fn describe(
    ram: &GuestRam,
    config: &MachineConfig,
    topology: Topology,
    virtio: &[VirtioSlot],
) -> Result<Description, MachineError> {
    let mut cmdline = CommandLine::parse(&config.cmdline)?;
    let rsdp = match config.discovery {
        DeviceDiscovery::Acpi => Some(acpi::write_tables(ram, topology, virtio)?),
        DeviceDiscovery::CommandLine => {
            for slot in virtio {
                cmdline.add_virtio_mmio(slot.base, layout::VIRTIO_MMIO_SIZE, slot.gsi)?;
            }
            let tables = mptable::tables(topology, interrupts(virtio));
            memory::write(ram, layout::MP_TABLES, &tables)?;
            None
        }
    };
    Ok(Description {
        cmdline: cmdline.to_bytes()?,
        rsdp,
    })
}

fn load(
    ram: &GuestRam,
    ram_size: u64,
    config: &MachineConfig,
    files: &BootFiles,
    description: &Description,
) -> Result<Entry, MachineError> {
    let payload = Payload {
        kernel: &files.kernel,
        initramfs: files.initramfs.as_ref(),
        cmdline: &description.cmdline,
        rsdp: description.rsdp,
    };
    loader::load(ram, ram_size, &payload).map_err(|source| MachineError::Load {
        kernel: config.kernel.clone(),
        source,
    })
}

fn create_vcpus(
    kvm: &Kvm,
    vm: &VmFd,
    topology: Topology,
    entry: Entry,
) -> Result<Vec<VcpuFd>, KvmError> {
    let template = CpuTemplate::new(kvm, topology)?;
    let mut vcpus = Vec::with_capacity(usize::from(topology.cores()));
    for index in 0..topology.cores() {
        let vcpu = vm
            .create_vcpu(u64::from(topology.apic_id(index)))
            .map_err(KvmError::refused("create a vCPU"))?;
        template.set_up(&vcpu, index)?;
        if index == 0 {
            cpu::set_entry(&vcpu, entry)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

fn device(device: &'static str) -> impl FnOnce(DeviceError) -> MachineError {
    move |source| MachineError::Device { device, source }
}

fn host(device: &'static str) -> impl FnOnce(std::io::Error) -> MachineError {
    move |source| MachineError::Device {
        device,
        source: source.into(),
    }
}
