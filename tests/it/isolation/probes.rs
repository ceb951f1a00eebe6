//! What is run inside: each probe tries one way out and says whether it was open.
//!
//! `open` means that the host could be reached, seen or changed (or, in the second table, that a limit did not hold). A probe
//! that could not be tried for another reason must not count as blocked, so most look at the error's number.

#![allow(unsafe_code)] // Raw system calls, to try what no library offers.

use std::ffi::CString;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use nightcrew::isolation::Gap;

/// What a probe found: `Ok` is a way out.
type Verdict = Result<String, String>;

pub struct Probe {
    pub name: &'static str,
    /// The gap that makes this one open, where the tier in use lists it.
    pub gap: Option<Gap>,
    run: fn() -> Verdict,
}

const fn probe(name: &'static str, run: fn() -> Verdict) -> Probe {
    Probe { name, gap: None, run }
}

const fn known(name: &'static str, gap: Gap, run: fn() -> Verdict) -> Probe {
    Probe { name, gap: Some(gap), run }
}

/// Ways out.
pub const ALL: &[Probe] = &[
    probe("tcp_to_the_internet", || {
        net(TcpStream::connect_timeout(&"1.1.1.1:80".parse().unwrap(), Duration::from_secs(3)))
    }),
    probe("tcp_to_the_host", || net(TcpStream::connect_timeout(&fact("TCP").parse().unwrap(), Duration::from_secs(3)))),
    probe("tcp_to_the_host_by_its_other_names", other_names_of_the_host),
    probe("udp_to_the_internet", || net(udp("8.8.8.8:53"))),
    probe("udp_to_the_host", udp_to_the_host),
    probe("dns", dns),
    probe("metadata_service", || {
        net(TcpStream::connect_timeout(&"169.254.169.254:80".parse().unwrap(), Duration::from_secs(3)))
    }),
    probe("unix_socket", || net(UnixStream::connect(fact("UNIX")))),
    probe("unix_socket_abstract", abstract_socket),
    probe("unix_datagram", || net(UnixDatagram::unbound().and_then(|socket| socket.send_to(b"x", fact("DATAGRAM"))))),
    probe("unix_datagram_of_a_pair", || {
        net(UnixDatagram::pair().and_then(|(one, _other)| one.send_to(b"x", fact("DATAGRAM"))))
    }),
    probe("vsock", || call("socket", unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0) }.into())),
    probe("packet_socket", || {
        any(&[
            call("packet", unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0x300) }.into()),
            call("raw", unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP) }.into()),
            call("alg", unsafe { libc::socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0) }.into()),
            call("audit", unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT) }.into()),
        ])
    }),
    probe("host_file", || read(&fact("SECRET"))),
    probe("host_file_by_symlink", || linked("link", |to, at| std::os::unix::fs::symlink(to, at))),
    probe("host_file_by_hard_link", || linked("hard", |to, at| std::fs::hard_link(to, at))),
    probe("host_file_by_dots", || {
        any(&[
            read(&format!("../../../../../../../..{}", fact("SECRET"))),
            read(&format!("/proc/self/root{}", fact("SECRET"))),
        ])
    }),
    probe("host_file_by_another_process", || {
        any(&["1", &fact("HOST_PID"), &unsafe { libc::getppid() }.to_string()]
            .map(|pid| read(&format!("/proc/{pid}/root{}", fact("SECRET")))))
    }),
    probe("host_file_truncated", || {
        io_result("truncate", unsafe { libc::truncate(c(&fact("SECRET")).as_ptr(), 0) }.into())
    }),
    probe("other_workspace", || {
        any(&[
            read(&format!("{}/file", fact("OTHER"))),
            open("write", std::fs::write(format!("{}/new", fact("OTHER")), "x")),
            open("list", std::fs::read_dir(fact("OTHER")).map(drop)),
            open("remove", std::fs::remove_file(format!("{}/file", fact("OTHER")))),
            open("rename", std::fs::rename(format!("{}/file", fact("OTHER")), "taken")),
        ])
    }),
    probe("state_directory", || open("list", std::fs::read_dir(fact("STATE")).map(drop))),
    probe("homes", homes),
    probe("private_system_files", || {
        any(&[
            "/etc/shadow",
            "/etc/sudoers",
            "/etc/ssh/ssh_host_ed25519_key",
            "/var/log/dpkg.log",
            "/var/lib/dpkg/status",
        ]
        .map(read))
    }),
    probe("writing_to_the_system", writing_to_the_system),
    probe("host_processes", host_processes),
    probe("environment_of_the_daemon", environment_of_the_daemon),
    probe("descriptors_of_the_daemon", descriptors),
    probe("memory_of_the_supervisor", memory_of_the_supervisor),
    probe("ptrace", || {
        let attach = |pid: i32| {
            let seize = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
            call("seize", seize)
        };
        any(&[attach(host_pid()), attach(1), attach(unsafe { libc::getppid() })])
    }),
    probe("reading_memory_of_others", || {
        let mut byte = 0_u8;
        let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let remote = libc::iovec { iov_base: 0x40_0000 as *mut libc::c_void, iov_len: 1 };
        let reading = |pid| unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
        any(&[call("host", reading(host_pid()) as i64), call("parent", reading(unsafe { libc::getppid() }) as i64)])
    }),
    known("signals_to_the_host", Gap::Signals, || signals(host_pid())),
    known("signals_to_the_supervisor", Gap::Signals, || signals(unsafe { libc::getppid() })),
    probe("limits_of_others", || {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        let mut get = |pid| {
            call("prlimit", unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) }.into())
        };
        let parent = unsafe { libc::getppid() };
        any(&[
            get(host_pid()),
            get(parent),
            call("setpriority", unsafe { libc::setpriority(libc::PRIO_PROCESS, parent.cast_unsigned(), 19) }.into()),
            call(
                "sched",
                unsafe { libc::sched_setscheduler(parent, libc::SCHED_IDLE, &libc::sched_param { sched_priority: 0 }) }
                    .into(),
            ),
        ])
    }),
    probe("becoming_root", || {
        any(&[
            call("setuid", unsafe { libc::setuid(0) }.into()),
            call("setresuid", unsafe { libc::setresuid(0, 0, 0) }.into()),
            call("setgroups", unsafe { libc::setgroups(1, [0].as_ptr()) }.into()),
            match unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) } {
                1 => Err("no new privileges".into()),
                other => Ok(format!("no_new_privs is {other}")),
            },
        ])
    }),
    probe("capabilities", capabilities),
    probe("set_user_id_bit", set_user_id_bit),
    probe("nested_user_namespace", || {
        any(&[
            call("unshare", unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into()),
            call("unshare mounts", unsafe { libc::unshare(libc::CLONE_NEWNS) }.into()),
            forked("clone", libc::CLONE_NEWUSER),
            forked("clone processes", libc::CLONE_NEWPID),
            clone3(),
        ])
    }),
    probe("entering_a_namespace", || {
        let enter = |path: String| match std::fs::File::open(path) {
            Ok(file) => call("setns", unsafe { libc::setns(file.as_raw_fd(), 0) }.into()),
            Err(error) => Err(error.to_string()),
        };
        any(&[
            enter("/proc/1/ns/mnt".into()),
            enter(format!("/proc/{}/ns/net", host_pid())),
            enter("/proc/self/ns/user".into()),
        ])
    }),
    probe("mount", mounting),
    probe("new_mount_calls", || {
        any(&[
            raw("fsopen", libc::SYS_fsopen, [c("tmpfs").as_ptr() as i64, 0, 0, 0, 0]),
            raw("open_tree", libc::SYS_open_tree, [libc::AT_FDCWD.into(), c("/").as_ptr() as i64, 1, 0, 0]),
            raw("mount_setattr", libc::SYS_mount_setattr, [libc::AT_FDCWD.into(), c("/usr").as_ptr() as i64, 0, 0, 0]),
            // open_tree_attr, Linux 6.15: newer than the filter's table.
            raw("open_tree_attr", 467, [libc::AT_FDCWD.into(), c("/").as_ptr() as i64, 1, 0, 0]),
        ])
    }),
    probe("another_root", || {
        any(&[
            call("chroot", unsafe { libc::chroot(c(".").as_ptr()) }.into()),
            raw("pivot_root", libc::SYS_pivot_root, [c(".").as_ptr() as i64, c(".").as_ptr() as i64, 0, 0, 0]),
        ])
    }),
    probe("device_nodes", || {
        let node = |name: &str, mode, major, minor| {
            call(name, unsafe { libc::mknod(c(name).as_ptr(), mode | 0o666, libc::makedev(major, minor)) }.into())
        };
        any(&[node("mem", libc::S_IFCHR, 1, 1), node("disk", libc::S_IFBLK, 254, 0), node("null", libc::S_IFCHR, 1, 3)])
    }),
    probe("devices", || {
        let names = [
            "mem", "kmem", "port", "kmsg", "vda", "sda", "nvme0n1", "kvm", "fuse", "net/tun", "vsock", "tty1",
            "console", "uinput",
        ];
        any(&names.map(|name| open(name, std::fs::File::open(format!("/dev/{name}")).map(drop))))
    }),
    probe("keys_of_the_kernel", || {
        any(&[
            raw(
                "add_key",
                libc::SYS_add_key,
                [c("user").as_ptr() as i64, c("x").as_ptr() as i64, c("y").as_ptr() as i64, 1, -3],
            ),
            raw("keyctl", libc::SYS_keyctl, [0, -3, 0, 0, 0]),
            raw("keyctl session", libc::SYS_keyctl, [0, -5, 1, 0, 0]),
            raw("request_key", libc::SYS_request_key, [c("user").as_ptr() as i64, c("x").as_ptr() as i64, 0, 0, 0]),
        ])
    }),
    probe("io_uring", || {
        let parameters = [0_u8; 256];
        raw("io_uring_setup", libc::SYS_io_uring_setup, [1, parameters.as_ptr() as i64, 0, 0, 0])
    }),
    probe("large_doors_of_the_kernel", || {
        let zeroes = [0_u8; 256];
        let pointer = zeroes.as_ptr() as i64;
        any(&[
            raw("bpf", libc::SYS_bpf, [0, pointer, 128, 0, 0]),
            raw("perf_event_open", libc::SYS_perf_event_open, [pointer, 0, -1, -1, 0]),
            raw("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0]),
            raw("fanotify_init", libc::SYS_fanotify_init, [0, 0, 0, 0, 0]),
            raw(
                "name_to_handle_at",
                libc::SYS_name_to_handle_at,
                [libc::AT_FDCWD.into(), c("/").as_ptr() as i64, pointer, pointer, 0],
            ),
            raw("open_by_handle_at", libc::SYS_open_by_handle_at, [libc::AT_FDCWD.into(), pointer, 0, 0, 0]),
        ])
    }),
    probe("the_machine_itself", || {
        any(&[
            // Wrong magic numbers: a kernel that listened would say EINVAL.
            raw("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0]),
            raw("init_module", libc::SYS_init_module, [0, 0, 0, 0, 0]),
            raw("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0, 0]),
            raw("swapon", libc::SYS_swapon, [c("/nowhere").as_ptr() as i64, 0, 0, 0, 0]),
            raw("sethostname", libc::SYS_sethostname, [c("x").as_ptr() as i64, 1, 0, 0, 0]),
            raw("settimeofday", libc::SYS_settimeofday, [0, 0, 0, 0, 0]),
            raw("quotactl", libc::SYS_quotactl, [0, 0, 0, 0, 0]),
        ])
    }),
    probe("kernel_logs", || {
        let mut buffer = [0_u8; 64];
        any(&[
            raw("syslog", libc::SYS_syslog, [3, buffer.as_mut_ptr() as i64, 64, 0, 0]),
            open("/dev/kmsg", std::fs::File::open("/dev/kmsg").map(drop)),
            some("/proc/kmsg"),
        ])
    }),
    probe("kernel_memory", || any(&["/proc/kcore", "/proc/kallsyms", "/proc/keys", "/proc/timer_list"].map(some))),
    probe("kernel_switches", || {
        let knobs = [
            "/proc/sysrq-trigger",
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/hostname",
            "/proc/sys/vm/drop_caches",
            "/proc/sys/kernel/modprobe",
            "/proc/irq/default_smp_affinity",
        ];
        any(&knobs.map(|knob| open(knob, std::fs::OpenOptions::new().write(true).open(knob).map(drop))))
    }),
    probe("cgroups_and_sysfs", || {
        any(&[
            open("cgroup", std::fs::create_dir("/sys/fs/cgroup/escape")),
            open("cgroup1", std::fs::create_dir("/sys/fs/cgroup/memory/escape")),
            open("cgroup.procs", std::fs::OpenOptions::new().write(true).open("/sys/fs/cgroup/cgroup.procs").map(drop)),
            open("uevent", std::fs::OpenOptions::new().write(true).open("/sys/kernel/uevent_helper").map(drop)),
            open(
                "release_agent",
                std::fs::OpenOptions::new().write(true).open("/sys/fs/cgroup/memory/release_agent").map(drop),
            ),
            open("debug", std::fs::read_dir("/sys/kernel/debug").map(drop)),
        ])
    }),
    probe("shared_memory_of_the_host", || {
        let segment: i32 = fact("SEGMENT").parse().unwrap();
        let address = unsafe { libc::shmat(segment, std::ptr::null(), libc::SHM_RDONLY) };
        call("shmat", if address as isize == -1 { -1 } else { 0 })
    }),
    probe("typing_into_the_terminal", || {
        let typed = unsafe { libc::ioctl(0, libc::TIOCSTI as _, b"x".as_ptr()) };
        let number = io::Error::last_os_error().raw_os_error();
        any(&[
            if typed == 0 || number == Some(libc::ENOTTY) {
                Ok(format!("TIOCSTI came through: {number:?}"))
            } else {
                Err("refused".into())
            },
            open("/dev/tty", std::fs::File::open("/dev/tty").map(drop)),
        ])
    }),
    probe("other_abi", other_abi),
    probe("executing_host_programs", || {
        let other = format!("{}/program", fact("OTHER"));
        open("exec", std::process::Command::new(other).status().map(drop))
    }),
    known("names_of_host_files", Gap::HostNames, || open("stat", std::fs::metadata(fact("SECRET")).map(drop))),
    known("name_of_the_host", Gap::HostIdentity, || {
        let name = rustix::system::uname().nodename().to_str().unwrap().to_owned();
        if name == fact("HOST_NAME") { Ok(name) } else { Err(name) }
    }),
    known("mode_of_host_files", Gap::OwnedMetadata, || {
        open("chmod", std::fs::set_permissions(fact("SECRET"), PermissionsExt::from_mode(0o600)))
    }),
];

/// Ways to what of ours is in the same room.
pub const IN_A_ROOM: &[Probe] = &[
    probe("worker_for_files", || {
        let worker = fact("WORKER");
        let number: i32 = worker.parse().unwrap();
        let mut byte = 0_u8;
        let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let remote = libc::iovec { iov_base: 0x40_0000 as *mut libc::c_void, iov_len: 1 };
        any(&[
            call("kill", unsafe { libc::kill(number, 0) }.into()),
            call("seize", unsafe { libc::ptrace(libc::PTRACE_SEIZE, number, 0, 0) }),
            call("read", unsafe { libc::process_vm_readv(number, &raw const local, 1, &raw const remote, 1, 0) }
                as i64),
            any(&["mem", "environ", "maps", "auxv", "syscall"].map(|file| some(&format!("/proc/{worker}/{file}")))),
            descriptors_of(&worker),
            call("limits", unsafe { libc::setpriority(libc::PRIO_PROCESS, number.cast_unsigned(), 19) }.into()),
        ])
    }),
    probe("starter", || {
        // Itself, the worker, and the first of all; where `/proc` is not shown there is nothing to be read.
        let ours = |pid: &String| {
            let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            pid.parse::<i32>().is_ok() && text.windows(9).any(|part| part == b"__confine")
        };
        let entries = std::fs::read_dir("/proc").map_err(|error| error.to_string())?;
        let ours: Vec<_> = entries.flatten().map(|e| e.file_name().into_string().unwrap()).filter(ours).collect();
        if ours.len() < 3 {
            return Ok(format!("too few to show anything: {ours:?}"));
        }
        let looks = ours.iter().map(|pid| {
            any(&[
                any(&["mem", "environ", "maps", "auxv", "syscall"].map(|file| some(&format!("/proc/{pid}/{file}")))),
                descriptors_of(pid),
                call("seize", unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid.parse::<i32>().unwrap(), 0, 0) }),
            ])
        });
        any(&looks.collect::<Vec<_>>())
    }),
    probe("other_home", || any(&[read(&fact("SECRET")), open("list", std::fs::read_dir(fact("OTHER")).map(drop))])),
    probe("other_temporary_files", || {
        any(&[read(&format!("/tmp/{}", fact("MARK"))), read(&format!("{}/{}", fact("OTHER_TMP"), fact("MARK")))])
    }),
];

/// What uses too much, and the one thing that should work. `open` means that no limit held.
const LIMITS: &[Probe] = &[
    probe("wall_clock", || {
        // Deaf to everything that can be ignored.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        std::thread::sleep(Duration::from_secs(30));
        Ok("slept to the end".into())
    }),
    probe("processor", || {
        let begun = std::time::Instant::now();
        let mut number = 1_u64;
        while begun.elapsed() < Duration::from_secs(20) {
            number = std::hint::black_box(number.wrapping_mul(31));
        }
        Ok("computed to the end".into())
    }),
    probe("memory", || {
        let mut all = Vec::new();
        for _ in 0..64 {
            let mut block: Vec<u8> = Vec::new();
            if block.try_reserve_exact(16 << 20).is_err() {
                return Err(format!("refused after {} blocks", all.len()));
            }
            block.resize(16 << 20, 1);
            all.push(std::hint::black_box(block));
        }
        Ok("had a gigabyte".into())
    }),
    probe("memory_in_many", || {
        // Each process stays below the limit that the kernel puts on one.
        for _ in 0..10 {
            if unsafe { libc::fork() } == 0 {
                let block = std::hint::black_box(vec![1_u8; 100 << 20]);
                std::thread::sleep(Duration::from_secs(20));
                drop(block);
                unsafe { libc::_exit(0) };
            }
        }
        std::thread::sleep(Duration::from_secs(20));
        Ok("had a gigabyte".into())
    }),
    probe("fork_bomb", || {
        for count in 0..5000 {
            match unsafe { libc::fork() } {
                -1 => return Err(format!("refused after {count}")),
                0 => {
                    std::thread::sleep(Duration::from_secs(20));
                    unsafe { libc::_exit(0) };
                }
                _ => {}
            }
        }
        std::thread::sleep(Duration::from_secs(5));
        Ok("5000 processes".into())
    }),
    probe("thread_bomb", || {
        let mut threads = Vec::new();
        for count in 0..2000 {
            let thread =
                std::thread::Builder::new().stack_size(64 << 10).spawn(|| std::thread::sleep(Duration::from_secs(20)));
            match thread {
                Ok(thread) => threads.push(thread),
                Err(_) => return Err(format!("refused after {count}")),
            }
        }
        std::thread::sleep(Duration::from_secs(5));
        Ok("2000 threads".into())
    }),
    probe("large_file", || {
        let mut file = std::fs::File::create("large").unwrap();
        for _ in 0..64 {
            if let Err(error) = file.write_all(&[1; 1 << 20]) {
                return Err(error.to_string());
            }
        }
        Ok("64 MiB in one file".into())
    }),
    probe("full_disk", || {
        for number in 0..64 {
            if let Err(error) = std::fs::write(format!("part-{number}"), vec![1; 1 << 20]) {
                return Err(error.to_string());
            }
        }
        std::thread::sleep(Duration::from_secs(20));
        Ok("64 MiB in many files".into())
    }),
    probe("memory_in_a_segment", || {
        // Touched and let go: no process has it any more.
        for _ in 0..32 {
            let segment = unsafe { libc::shmget(libc::IPC_PRIVATE, 32 << 20, libc::IPC_CREAT | 0o600) };
            if segment < 0 {
                return Err(io::Error::last_os_error().to_string());
            }
            let address = unsafe { libc::shmat(segment, std::ptr::null(), 0) };
            unsafe { std::ptr::write_bytes(address.cast::<u8>(), 1, 32 << 20) };
            unsafe { libc::shmdt(address) };
        }
        std::thread::sleep(Duration::from_secs(20));
        Ok("had a gigabyte".into())
    }),
    probe("memory_in_a_descriptor", || {
        for _ in 0..32 {
            let fd = unsafe { libc::memfd_create(c("x").as_ptr(), 0) };
            if fd < 0 {
                return Err(io::Error::last_os_error().to_string());
            }
            let block = vec![1_u8; 32 << 20];
            assert!(unsafe { libc::write(fd, block.as_ptr().cast(), block.len()) } > 0);
        }
        std::thread::sleep(Duration::from_secs(20));
        Ok("had a gigabyte".into())
    }),
    probe("memory_in_temporary_files", || {
        for (number, place) in ["/tmp", "/dev/shm", "/home/user"].iter().cycle().take(48).enumerate() {
            if let Err(error) = std::fs::write(format!("{place}/{number}"), vec![1; 16 << 20]) {
                return Err(error.to_string());
            }
        }
        std::thread::sleep(Duration::from_secs(20));
        Ok("had most of a gigabyte".into())
    }),
    probe("disk_in_deleted_files", || {
        let mut held = Vec::new();
        for _ in 0..64 {
            let mut file = std::fs::File::create("deleted").unwrap();
            std::fs::remove_file("deleted").unwrap();
            if let Err(error) = file.write_all(&[1; 1 << 20]) {
                return Err(error.to_string());
            }
            held.push(file);
        }
        std::thread::sleep(Duration::from_secs(20));
        Ok("64 MiB without a name".into())
    }),
    probe("disk_in_mapped_files", || {
        use std::os::fd::AsRawFd;
        for _ in 0..64 {
            let mut file =
                std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open("mapped").unwrap();
            std::fs::remove_file("mapped").unwrap();
            if let Err(error) = file.write_all(&[1; 1 << 20]) {
                return Err(error.to_string());
            }
            unsafe {
                libc::mmap(std::ptr::null_mut(), 1 << 20, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
            };
        }
        std::thread::sleep(Duration::from_secs(20));
        Ok("64 MiB without a name".into())
    }),
    probe("many_descriptors", || {
        let mut all = Vec::new();
        for count in 0..1000 {
            match std::fs::File::open("/dev/null") {
                Ok(file) => all.push(file),
                Err(_) => return Err(format!("refused after {count}")),
            }
        }
        Ok("1000 descriptors".into())
    }),
    probe("huge_output", || {
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..64 {
            io::stdout().write_all(&chunk).unwrap();
        }
        Err("written".into())
    }),
    probe("own_loopback", || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
        let address: SocketAddr = listener.local_addr().unwrap();
        open("connect", TcpStream::connect(address).map(drop))
    }),
];

/// Not a test: what `mod.rs` starts inside of a sandbox.
#[test]
#[ignore = "run inside of a sandbox, by the other tests"]
fn inside() {
    let Ok(name) = std::env::var("PROBE") else { return };
    let probe = ALL.iter().chain(LIMITS).chain(IN_A_ROOM).find(|probe| probe.name == name).unwrap();
    match (probe.run)() {
        Ok(how) => println!("\nPROBE open: {how}"),
        Err(why) => println!("\nPROBE blocked: {why}"),
    }
}

#[test]
fn there_are_enough_probes_and_each_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = ALL.iter().chain(LIMITS).map(|probe| probe.name).collect();
    assert_eq!(names.len(), ALL.len() + LIMITS.len());
    assert!(ALL.len() >= 25);
}

/// A System V segment that everybody may read.
pub fn host_segment() -> i32 {
    unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, libc::IPC_CREAT | 0o666) }
}

pub fn drop_segment(segment: i32) {
    unsafe { libc::shmctl(segment, libc::IPC_RMID, std::ptr::null_mut()) };
}

fn fact(name: &str) -> String {
    std::env::var(name).unwrap()
}

fn host_pid() -> i32 {
    fact("HOST_PID").parse().unwrap()
}

fn c(text: &str) -> &'static std::ffi::CStr {
    // Lives until the probe ends, which is at once.
    Box::leak(CString::new(text).unwrap().into_boxed_c_str())
}

/// The first way out, else every reason.
fn any(verdicts: &[Verdict]) -> Verdict {
    match verdicts.iter().find(|verdict| verdict.is_ok()) {
        Some(open) => open.clone(),
        None => Err(verdicts.iter().filter_map(|verdict| verdict.clone().err()).collect::<Vec<_>>().join("; ")),
    }
}

fn open(what: &str, result: io::Result<()>) -> Verdict {
    result.map(|()| what.to_owned()).map_err(|error| format!("{what}: {error}"))
}

/// A network attempt: a timeout or a refusal by somebody else would mean that something went out.
fn net<T>(result: io::Result<T>) -> Verdict {
    match result {
        Ok(_) => Ok("connected".into()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENETUNREACH | libc::EPERM | libc::EACCES | libc::ENOENT | libc::EAFNOSUPPORT) => {
                Err(error.to_string())
            }
            // In a network namespace of its own nobody listens on the loopback.
            Some(libc::ECONNREFUSED) => Err(error.to_string()),
            _ => Ok(format!("went out: {error}")),
        },
    }
}

/// A system call that must be refused as such: another complaint would mean that the kernel looked at its arguments.
fn call(what: &str, answer: i64) -> Verdict {
    let error = io::Error::last_os_error();
    match (answer, error.raw_os_error()) {
        (
            -1,
            Some(
                libc::EPERM
                | libc::EACCES
                | libc::ENOSYS
                | libc::ESRCH
                | libc::EAFNOSUPPORT
                | libc::EPROTONOSUPPORT
                | libc::ENOENT,
            ),
        ) => Err(format!("{what}: {error}")),
        // An identifier or a namespace that is not there for this process.
        (-1, Some(libc::EINVAL)) if matches!(what, "shmat" | "setuid" | "setresuid") => Err(format!("{what}: {error}")),
        (-1, Some(libc::EIDRM)) => Err(format!("{what}: {error}")),
        _ => Ok(format!("{what}: {answer} {error}")),
    }
}

fn io_result(what: &str, answer: i64) -> Verdict {
    if answer == 0 { Ok(what.into()) } else { Err(format!("{what}: {}", io::Error::last_os_error())) }
}

fn raw(what: &str, number: i64, a: [i64; 5]) -> Verdict {
    call(what, unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4]) })
}

fn read(path: &str) -> Verdict {
    open(path, std::fs::read(path).map(drop))
}

/// Whether a file has any content: a masked one reads as empty.
fn some(path: &str) -> Verdict {
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| format!("{path}: {e}"))?;
    let mut byte = [0; 64];
    match io::Read::read(&mut file, &mut byte) {
        Ok(0) => Err(format!("{path}: empty")),
        Ok(_) => Ok(path.to_owned()),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

fn linked(name: &str, link: fn(String, &str) -> io::Result<()>) -> Verdict {
    drop(std::fs::remove_file(name));
    link(fact("SECRET"), name).map_err(|error| error.to_string())?;
    read(name)
}

fn udp(to: &str) -> io::Result<usize> {
    UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", to)
}

/// In a network namespace of its own the datagram is sent, to a loopback where nobody listens. The test's socket must hear nothing.
fn udp_to_the_host() -> Verdict {
    let to = fact("UDP");
    let talk = || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(&to)?;
        socket.send(b"x")?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.recv(&mut [0; 8])
    };
    net(talk())
}

fn dns() -> Verdict {
    match std::net::ToSocketAddrs::to_socket_addrs(&("example.com", 80)) {
        Ok(mut found) => Ok(format!("{:?}", found.next())),
        Err(error) => Err(error.to_string()),
    }
}

fn other_names_of_the_host() -> Verdict {
    let port = fact("TCP").rsplit(':').next().unwrap().to_owned();
    let names = ["0.0.0.0", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]", "10.0.2.2", "172.17.0.1", "192.168.1.1"];
    let tries = names.map(|name| {
        let address: SocketAddr = format!("{name}:{port}").parse().unwrap();
        match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Err(error.to_string()),
            other => net(other),
        }
    });
    any(&tries)
}

fn abstract_socket() -> Verdict {
    let address = std::os::unix::net::SocketAddr::from_abstract_name(fact("ABSTRACT")).unwrap();
    net(UnixStream::connect_addr(&address))
}

fn homes() -> Verdict {
    let home_of = |path: &str| match std::fs::read_dir(path) {
        // A home of its own, or one that holds a toolchain and nothing else.
        Ok(entries) => {
            let names: Vec<_> = entries.flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
            let private = names.iter().any(|name| {
                [".ssh", ".bash_history", ".bashrc", ".profile", ".gitconfig", ".netrc", ".config"]
                    .contains(&name.as_str())
            });
            if private { Ok(format!("{path}: {names:?}")) } else { Err(format!("{path}: {names:?}")) }
        }
        Err(error) => Err(format!("{path}: {error}")),
    };
    any(&[
        home_of("/root"),
        home_of("/home"),
        read("/root/.bashrc"),
        read("/root/.profile"),
        read("/root/.cargo/credentials.toml"),
        read("/root/.cargo/env"),
    ])
}

fn writing_to_the_system() -> Verdict {
    let places = [
        "/",
        "/usr",
        "/usr/bin",
        "/usr/local",
        "/etc",
        "/opt",
        "/var",
        "/root",
        "/lib",
        "/sys",
        "/proc",
        "/.nightcrew",
        "/var/tmp",
    ];
    let write =
        |place: &str| open(place, std::fs::write(format!("{}/nightcrew-probe", place.trim_end_matches('/')), "x"));
    let program = std::env::current_exe().unwrap();
    any(&[
        any(&places.map(write)),
        open("/etc/passwd", std::fs::OpenOptions::new().append(true).open("/etc/passwd").map(drop)),
        open("this program", std::fs::OpenOptions::new().append(true).open(program).map(drop)),
        open("the helper", std::fs::OpenOptions::new().append(true).open("/.nightcrew/init").map(drop)),
    ])
}

/// What processes of the host hold. That they exist is another matter.
fn host_processes() -> Verdict {
    let files = ["environ", "mem", "maps", "cmdline", "fd", "cwd/.", "root/etc", "task", "stack", "auxv"];
    let look = |pid: &str, file: &str| {
        let path = format!("/proc/{pid}/{file}");
        if file == "fd" {
            descriptors_of(pid)
        } else if file == "task" || file == "root/etc" || file == "cwd/." {
            open(&path, std::fs::read_dir(&path).map(drop))
        } else {
            some(&path)
        }
    };
    let host = fact("HOST_PID");
    let of_host: Vec<_> = files.iter().map(|file| look(&host, file)).collect();
    let mut of_first: Vec<_> = files
        .iter()
        .filter(|f| !matches!(**f, "cmdline" | "task" | "maps" | "auxv"))
        .map(|file| look("1", file))
        .collect();
    of_first.extend(of_host);
    any(&of_first)
}

fn environment_of_the_daemon() -> Verdict {
    // Cargo sets these for the test that stands in for the daemon.
    match ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "SSH_AUTH_SOCK"].iter().find(|name| std::env::var(name).is_ok()) {
        Some(name) => Ok((*name).to_owned()),
        None => Err("only what was given".into()),
    }
}

fn descriptors() -> Verdict {
    match (3..1024).find(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0) {
        Some(fd) => Ok(format!("{fd} is {:?}", std::fs::read_link(format!("/proc/self/fd/{fd}")))),
        None => Err("0, 1 and 2 alone".into()),
    }
}

fn memory_of_the_supervisor() -> Verdict {
    let parent = unsafe { libc::getppid() };
    any(&[
        any(&["mem", "environ", "maps", "auxv", "syscall"].map(|file| some(&format!("/proc/{parent}/{file}")))),
        descriptors_of(&parent.to_string()),
    ])
}

/// Their numbers may be seen by the kernel's root; what is behind them may not.
fn descriptors_of(pid: &str) -> Verdict {
    let behind = |fd: String| {
        let path = format!("/proc/{pid}/fd/{fd}");
        any(&[open(&path, std::fs::read_link(&path).map(drop)), open(&path, std::fs::File::open(&path).map(drop))])
    };
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(|error| error.to_string())?;
    any(&entries.flatten().map(|entry| behind(entry.file_name().into_string().unwrap())).collect::<Vec<_>>())
}

fn signals(pid: i32) -> Verdict {
    // The signal that does nothing; being allowed to send it is being allowed to send any. Process 1 of a namespace takes none
    // that it has no handler for, so there being allowed is nothing.
    if pid == 1 {
        unsafe { libc::kill(1, libc::SIGKILL) };
        return Err("still here".into());
    }
    call("kill", unsafe { libc::kill(pid, 0) }.into())
}

fn capabilities() -> Verdict {
    let mut header = [0x2008_0522_u32, 0];
    let mut data = [u32::MAX; 6];
    let answer = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) };
    let some_left =
        (0..=40).any(|cap| unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_IS_SET, cap, 0, 0) } == 1);
    if answer == 0 && data == [0; 6] && !some_left { Err("none".into()) } else { Ok(format!("{data:x?} {some_left}")) }
}

fn set_user_id_bit() -> Verdict {
    std::fs::write("program", "x").unwrap();
    let chmod = |mode| open("chmod", std::fs::set_permissions("program", PermissionsExt::from_mode(mode)));
    drop(std::fs::remove_file("made"));
    any(&[
        chmod(0o4755),
        chmod(0o2755),
        open(
            "open",
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o4755).open("made").map(drop),
        ),
        raw("fchmodat2", libc::SYS_fchmodat2, [libc::AT_FDCWD.into(), c("program").as_ptr() as i64, 0o4755, 0, 0]),
        raw(
            "mknodat",
            libc::SYS_mknodat,
            [libc::AT_FDCWD.into(), c("node").as_ptr() as i64, i64::from(libc::S_IFREG | 0o4755), 0, 0],
        ),
    ])
}

fn forked(what: &str, flags: i32) -> Verdict {
    let pid = unsafe { libc::syscall(libc::SYS_clone, i64::from(flags | libc::SIGCHLD), 0, 0, 0, 0) };
    if pid == 0 {
        unsafe { libc::_exit(0) };
    }
    call(what, pid)
}

fn clone3() -> Verdict {
    let mut arguments = [0_u64; 11];
    arguments[0] = libc::CLONE_NEWUSER as u64;
    arguments[4] = libc::SIGCHLD as u64;
    let pid = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) };
    if pid == 0 {
        unsafe { libc::_exit(0) };
    }
    call("clone3", pid)
}

fn mounting() -> Verdict {
    std::fs::create_dir_all("point").unwrap();
    let mount = |source: &str, at: &str, kind: &str, flags| {
        let answer =
            unsafe { libc::mount(c(source).as_ptr(), c(at).as_ptr(), c(kind).as_ptr(), flags, std::ptr::null()) };
        call(kind, answer.into())
    };
    any(&[
        mount("tmpfs", "point", "tmpfs", 0),
        mount("/", "point", "bind", libc::MS_BIND),
        mount("", "/usr", "remount", libc::MS_REMOUNT | libc::MS_BIND),
        mount("proc", "point", "proc", 0),
        call("umount", unsafe { libc::umount2(c("/proc").as_ptr(), libc::MNT_DETACH) }.into()),
        call("umount", unsafe { libc::umount2(c("/usr").as_ptr(), libc::MNT_DETACH) }.into()),
    ])
}

/// The x32 numbers of calls that are refused under their usual numbers; i386 would end the probe at once, which is no verdict.
fn other_abi() -> Verdict {
    const X32: i64 = 0x4000_0000;
    any(&[
        raw("x32 getpid", X32 | libc::SYS_getpid, [0; 5]),
        raw("x32 keyctl", X32 | libc::SYS_keyctl, [0, -3, 0, 0, 0]),
        raw("far too new", 5000, [0; 5]),
    ])
}
