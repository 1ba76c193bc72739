//! Python programs that try what a command must not be able to do. Each prints a line a try:
//! `refused WHAT ERRNO` or `reached WHAT`.

/// How many lines [`reaching_the_host`] prints.
pub(crate) const WAYS_TO_THE_HOST: usize = 5;

/// Tries to reach a server on the host: by its port, by its abstract Unix socket, and what is beyond.
pub(crate) fn reaching_the_host(port: u16, abstract_name: &str) -> String {
    format!(
        "import socket\n\
         def reach(family, address):\n\
         \x20   try:\n\
         \x20       with socket.socket(family) as one:\n\
         \x20           one.settimeout(5)\n\
         \x20           one.connect(address)\n\
         \x20       print('reached', address)\n\
         \x20   except OSError as error:\n\
         \x20       print('refused', address, error)\n\
         reach(socket.AF_INET, ('127.0.0.1', {port}))\n\
         reach(socket.AF_INET6, ('::1', {port}))\n\
         reach(socket.AF_UNIX, '\\0{abstract_name}')\n\
         reach(socket.AF_INET, ('172.17.0.1', {port}))\n\
         reach(socket.AF_INET, ('1.1.1.1', 53))\n"
    )
}

/// Lists the interfaces, and talks to itself over loopback.
pub(crate) const LOOPBACK: &str = "import socket\n\
    print(*sorted(name for _, name in socket.if_nameindex()))\n\
    server = socket.create_server(('127.0.0.1', 0))\n\
    client = socket.create_connection(server.getsockname())\n\
    peer, _ = server.accept()\n\
    client.sendall(b'ping')\n\
    print(peer.recv(4).decode())\n";

/// Tries the ports of the agent: by vsock, where there is any, to itself, to the own machine by its
/// number, and to the host; and by its sockets in the file system.
pub(crate) const REACHING_THE_AGENT: &str = "import fcntl, os, socket, struct\n\
    own = 3\n\
    try:\n\
    \x20   with open('/dev/vsock', 'rb') as device:\n\
    \x20       own = struct.unpack('I', fcntl.ioctl(device, 0x7b9, b'\\0' * 4))[0]\n\
    except OSError as error:\n\
    \x20   print('no number', error)\n\
    for cid in (1, own, 2):\n\
    \x20   for port in (1024, 1, 1025):\n\
    \x20       try:\n\
    \x20           with socket.socket(socket.AF_VSOCK) as one:\n\
    \x20               one.settimeout(3)\n\
    \x20               one.connect((cid, port))\n\
    \x20           print('reached', cid, port)\n\
    \x20       except OSError as error:\n\
    \x20           print('refused', cid, port, error)\n\
    for folder, _, files in os.walk('/run'):\n\
    \x20   for name in files:\n\
    \x20       try:\n\
    \x20           with socket.socket(socket.AF_UNIX) as one:\n\
    \x20               one.connect(os.path.join(folder, name))\n\
    \x20           print('reached', folder, name)\n\
    \x20       except OSError as error:\n\
    \x20           print('refused', folder, name, error)\n";

/// Tries mount(2), umount2(2), pivot_root(2), chroot(2) and the newer open_tree(2) and fsopen(2).
pub(crate) const MOUNTING: &str = "import ctypes\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    def attempt(name, *arguments):\n\
    \x20   result = libc.syscall(*arguments)\n\
    \x20   print('reached' if result >= 0 else 'refused', name, ctypes.get_errno())\n\
    attempt('mount tmpfs', 165, b'none', b'/tmp', b'tmpfs', 0, None)\n\
    attempt('mount bind', 165, b'/', b'/tmp', None, 4096, None)\n\
    attempt('remount', 165, None, b'/', None, 32, None)\n\
    attempt('umount', 166, b'/proc', 2)\n\
    attempt('pivot_root', 155, b'/tmp', b'/tmp')\n\
    attempt('chroot', 161, b'/tmp')\n\
    attempt('open_tree', 428, -100, b'/', 1)\n\
    attempt('fsopen', 430, b'tmpfs', 0)\n\
    attempt('swapon', 167, b'/tmp', 0)\n";

/// Tries to attach to the agent, to read its memory, and to take a descriptor of it.
pub(crate) const TRACING: &str = "import ctypes\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    def attempt(name, *arguments):\n\
    \x20   result = libc.syscall(*arguments)\n\
    \x20   print('reached' if result >= 0 else 'refused', name, ctypes.get_errno())\n\
    attempt('attach', 101, 16, 1, 0, 0)\n\
    attempt('seize', 101, 0x4206, 1, 0, 0)\n\
    space = ctypes.create_string_buffer(8)\n\
    class Range(ctypes.Structure):\n\
    \x20   _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]\n\
    local = Range(ctypes.cast(space, ctypes.c_void_p), 8)\n\
    remote = Range(0x400000, 8)\n\
    attempt('read memory', 310, 1, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)\n\
    pidfd = libc.syscall(434, 1, 0)\n\
    attempt('take descriptor', 438, pidfd, 0, 0)\n\
    attempt('kcmp', 312, 1, 1, 0, 0, 0)\n";

/// Tries unshare(2) for each kind of namespace, each in a process of its own, and joining the agent's.
pub(crate) const NEW_NAMESPACES: &str = "import ctypes, os\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    flags = {'user': 0x10000000, 'mount': 0x20000, 'pid': 0x20000000, 'net': 0x40000000,\n\
    \x20        'ipc': 0x8000000, 'uts': 0x4000000, 'cgroup': 0x2000000}\n\
    for name, flag in flags.items():\n\
    \x20   if os.fork() == 0:\n\
    \x20       result = libc.unshare(flag)\n\
    \x20       print('reached' if result >= 0 else 'refused', name, ctypes.get_errno(), flush=True)\n\
    \x20       os._exit(0)\n\
    \x20   os.wait()\n";

/// Tries calls that need no privilege on common hosts and have a history of holes: numbers of x86-64.
pub(crate) const DANGEROUS_CALLS: &str = "import ctypes\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    calls = {'bpf': 321, 'keyctl': 250, 'add_key': 248, 'userfaultfd': 323, 'io_uring_setup': 425,\n\
    \x20        'perf_event_open': 298, 'kexec_load': 246, 'init_module': 175, 'delete_module': 176,\n\
    \x20        'reboot': 169, 'settimeofday': 164, 'iopl': 172, 'quotactl': 179, 'acct': 163,\n\
    \x20        'open_by_handle_at': 304, 'lookup_dcookie': 212}\n\
    for name, number in calls.items():\n\
    \x20   ctypes.set_errno(0)\n\
    \x20   result = libc.syscall(number, 0, 0, 0, 0, 0)\n\
    \x20   errno = ctypes.get_errno()\n\
    \x20   # EPERM, EACCES, ENOSYS: not that the arguments were wrong.\n\
    \x20   print('refused' if result < 0 and errno in (1, 13, 38) else 'reached', name, errno)\n\
    result = libc.syscall(103, 3, ctypes.create_string_buffer(64), 64)\n\
    print('reached' if result >= 0 else 'refused', 'syslog', ctypes.get_errno())\n";
