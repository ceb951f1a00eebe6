//! The system call filter of a confined command.
//!
//! It names what is refused and refuses everything that is newer than the table it was written from. What a namespace or
//! Landlock blocks already is named again here: two locks, by two makers. In the last tier it also stands in for the network
//! namespace: no socket at all.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

use super::tier::Tier;

/// The last system call that this table knows (`mseal`, Linux 6.10; numbers from 424 on are the same on every architecture).
/// Whatever is newer does not exist: programs then take the older way.
const LAST_KNOWN: u32 = 462;

/// Refused with EPERM, whatever the arguments.
const REFUSED: &[i64] = &[
    // Mounts, namespaces, roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Keys of the kernel are not divided by namespaces.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Large doors into the kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // The machine itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_lookup_dcookie,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// Refused in the last tier, which has neither a network nor an IPC namespace.
const REFUSED_ON_THE_HOST: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
];

/// Their arguments lie in memory, where a filter cannot look. As if they did not exist, so that libraries take the older call.
const UNKNOWN: &[i64] = &[libc::SYS_clone3, libc::SYS_openat2];

/// Memory that belongs to a descriptor and to no process: only a cgroup can count it. Libraries take a file in `/tmp` instead.
const UNCOUNTED: &[i64] = &[libc::SYS_memfd_create, libc::SYS_memfd_secret];

// The two requests that type into a terminal; their numbers are the same on every architecture that we build for.
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;
/// Allowed for the calling process alone, and which argument says whom they are for.
const OF_ITSELF_ONLY: &[(i64, u8)] = &[
    (libc::SYS_prlimit64, 0),
    (libc::SYS_setpriority, 1),
    (libc::SYS_ioprio_set, 1),
    (libc::SYS_sched_setscheduler, 0),
    (libc::SYS_sched_setparam, 0),
    (libc::SYS_sched_setattr, 0),
];

const SET_ID_BITS: [u64; 2] = [libc::S_ISUID as u64, libc::S_ISGID as u64];
const NAMESPACES: [i32; 8] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    // CLONE_NEWTIME: in `clone` it is part of the exit signal, which nobody uses.
    0x80,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The programs to install, in this order. `counted`: a cgroup limits memory. `egress`: there is a proxy to the network.
pub(super) fn programs(tier: Tier, counted: bool, egress: bool) -> io::Result<Vec<BpfProgram>> {
    let failed = |error: seccompiler::BackendError| io::Error::other(format!("the system call filter: {error}"));
    let build = || {
        let arch = std::env::consts::ARCH.try_into()?;
        let program = |rules: Rules, code: i32| -> Result<BpfProgram, seccompiler::BackendError> {
            SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(code.cast_unsigned()), arch)?
                .try_into()
        };
        let uncounted = if counted { &[][..] } else { UNCOUNTED };
        let unknown = UNKNOWN.iter().chain(uncounted).map(|call| (*call, Vec::new())).collect();
        Ok(vec![with_bounds(program(unknown, libc::ENOSYS)?), program(refused(tier, egress)?, libc::EPERM)?])
    };
    build().map_err(failed)
}

/// Puts a look at the number itself in front: what is newer than the table does not exist. Nor does x32, whose numbers begin far
/// above it and which would be a second set of doors beside every one that is locked.
fn with_bounds(program: BpfProgram) -> BpfProgram {
    let statement = |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code as u16, jt, jf, k };
    let mut bounded = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    bounded.push(statement(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 0, 1, LAST_KNOWN));
    bounded.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()));
    bounded.extend(program);
    bounded
}

fn refused(tier: Tier, egress: bool) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    for call in REFUSED.iter().chain(REFUSED_HERE) {
        rules.insert(*call, Vec::new());
    }

    // No new namespace by `clone`; threads and processes are made with it.
    let flags = NAMESPACES.map(|flag| u64::from(flag.cast_unsigned()));
    rules.insert(libc::SYS_clone, flags.iter().map(|flag| rule([has(0, *flag)?])).collect::<Result<_, _>>()?);

    // Typing into the terminal that the daemon was started from.
    rules.insert(libc::SYS_ioctl, vec![rule([is(1, TIOCSTI)?])?, rule([is(1, TIOCLINUX)?])?]);
    rules.insert(libc::SYS_personality, vec![rule([not(0, 0)?, not(0, 0xffff_ffff)?])?]);
    // Limits and priorities of others: the process that watches the command has the same user in its eyes.
    for (call, argument) in OF_ITSELF_ONLY {
        rules.insert(*call, vec![rule([not(*argument, 0)?])?]);
    }

    // Nothing becomes set-user-id: the file would be so on the host as well, for whoever reaches it there.
    let mut mode = |call: i64, argument: u8| -> Result<(), seccompiler::BackendError> {
        let bits = SET_ID_BITS.iter().map(|bit| rule([has(argument, *bit)?])).collect::<Result<Vec<_>, _>>()?;
        rules.entry(call).or_default().extend(bits);
        Ok(())
    };
    mode(libc::SYS_fchmod, 1)?;
    mode(libc::SYS_fchmodat, 2)?;
    mode(libc::SYS_fchmodat2, 2)?;
    mode(libc::SYS_mkdirat, 2)?;
    mode(libc::SYS_mknodat, 2)?;
    #[cfg(target_arch = "x86_64")]
    for call in [libc::SYS_chmod, libc::SYS_mkdir, libc::SYS_mknod, libc::SYS_creat] {
        mode(call, 1)?;
    }
    // The mode of `open` counts only when it makes a file; else the register holds anything.
    let mut opens = |call: i64, flags: u8| -> Result<(), seccompiler::BackendError> {
        for makes in [libc::O_CREAT, libc::O_TMPFILE] {
            for bit in SET_ID_BITS {
                let rule = rule([has(flags, u64::from(makes.cast_unsigned()))?, has(flags + 1, bit)?])?;
                rules.entry(call).or_default().push(rule);
            }
        }
        Ok(())
    };
    opens(libc::SYS_openat, 2)?;
    #[cfg(target_arch = "x86_64")]
    opens(libc::SYS_open, 1)?;

    // No device nodes.
    let device = |argument: u8| -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        [libc::S_IFCHR, libc::S_IFBLK]
            .iter()
            .map(|kind| rule([masked(argument, u64::from(libc::S_IFMT), u64::from(*kind))?]))
            .collect()
    };
    rules.entry(libc::SYS_mknodat).or_default().extend(device(2)?);
    #[cfg(target_arch = "x86_64")]
    rules.entry(libc::SYS_mknod).or_default().extend(device(1)?);

    if tier.own_file_system() {
        // The network namespace holds nothing but its own loopback. Families that it does not divide (vsock reaches the machine
        // that hosts this one) and those that only widen the kernel's surface are refused. Netlink: the routing table, to be read.
        let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
        let mut other = families.iter().map(|family| not(0, *family as u64)).collect::<Result<Vec<_>, _>>()?;
        other.push(not(0, libc::AF_NETLINK as u64)?);
        let netlink = [is(0, libc::AF_NETLINK as u64)?, not(2, libc::NETLINK_ROUTE as u64)?];
        rules.insert(libc::SYS_socket, vec![SeccompRule::new(other)?, rule(netlink)?]);
    } else {
        for call in REFUSED_ON_THE_HOST {
            rules.insert(*call, Vec::new());
        }
        // A pair of stream sockets can reach nobody else; a datagram socket can be pointed at any address with `sendto`.
        let kind = |kind: i32| rule([masked(1, 0xf, u64::from(kind.cast_unsigned()))?]);
        let family = rule([not(0, libc::AF_UNIX as u64)?])?;
        rules.insert(libc::SYS_socketpair, vec![family, kind(libc::SOCK_DGRAM)?, kind(libc::SOCK_RAW)?]);
        rules.insert(
            libc::SYS_sendto,
            vec![rule([SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?])?],
        );
        if egress {
            to_the_proxy(&mut rules)?;
        }
    }
    Ok(rules)
}

/// In the last tier with a proxy: sockets of TCP over IPv4 alone, whose `connect` the process that watches the command carries out in its
/// stead (`egress::lead`). Nothing opens a connection by sending.
fn to_the_proxy(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    rules.remove(&libc::SYS_connect);
    let protocol = rule([not(2, 0)?, not(2, libc::IPPROTO_TCP as u64)?])?;
    let mut others = vec![rule([not(0, libc::AF_INET as u64)?])?, protocol];
    for kind in (0..=0xf).filter(|kind| *kind != libc::SOCK_STREAM) {
        others.push(rule([masked(1, 0xf, u64::from(kind.cast_unsigned()))?])?);
    }
    rules.insert(libc::SYS_socket, others);
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        rules.entry(call).or_default().push(rule([has(flags, libc::MSG_FASTOPEN as u64)?])?);
    }
    Ok(())
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions.into())
}

fn condition(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
}

/// All of `bits` are set.
fn has(argument: u8, bits: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    masked(argument, bits, bits)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    condition(argument, SeccompCmpOp::MaskedEq(mask), value)
}

fn is(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn not(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    condition(argument, SeccompCmpOp::Ne, value)
}
