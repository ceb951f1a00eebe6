//! From what a caller asks for to what the helper does: mounts, variables, paths. One plan serves bubblewrap, our own namespaces
//! and the last tier, so that they differ in means and not in what processes find.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::room::{RoomSpec, Root};
use super::spec::{Limits, ReadOnly, Spec, Writable};
use super::tier::Tier;
use super::toolchains::Toolchain;

/// Our own directory inside.
pub(super) const OWN: &str = "/.nightcrew";
/// The work directory inside.
pub(super) const WORK: &str = "/work";
/// The home inside.
pub(super) const HOME: &str = "/home/user";
/// The user inside, in tiers with a user namespace.
pub(super) const UID: u32 = 1000;
/// Version of what the daemon and its helper say to each other. They are one binary, unless it was replaced under a running daemon.
pub(super) const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "/3");

/// One entry of the file system inside, in the order in which they are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mount {
    Tmpfs {
        at: PathBuf,
        size_bytes: u64,
    },
    Proc,
    Dev {
        size_bytes: u64,
    },
    Link {
        at: PathBuf,
        target: PathBuf,
    },
    Read {
        host: PathBuf,
        at: PathBuf,
    },
    Write {
        host: PathBuf,
        at: PathBuf,
    },
    /// A file of `/proc` that says too much: it reads as empty.
    Mask {
        at: PathBuf,
    },
    /// A directory of `/proc` that could be written to by the kernel's root.
    Freeze {
        at: PathBuf,
    },
}

/// What a sandbox is made of, be it for one command or for many.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    /// The work directory, where there is one beside the home.
    pub work: Option<PathBuf>,
    pub home: Option<PathBuf>,
    pub read_only: Vec<ReadOnly>,
    pub writable: Vec<Writable>,
    pub egress: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub limits: Limits,
    pub root: Root,
    /// The home belongs to the sandbox's user already.
    pub owned: bool,
    /// It ends with its first process.
    pub once: bool,
}

impl Ground {
    pub(super) fn of_one(spec: &Spec) -> Self {
        let Spec { work, home, read_only, writable, egress, environment, limits, .. } = spec.clone();
        let work = Some(work);
        let (root, owned, once) = (Root::Host, false, true);
        Self { work, home, read_only, writable, egress, environment, limits, root, owned, once }
    }

    pub(super) fn of_many(spec: &RoomSpec) -> Self {
        let RoomSpec { root, home, owned, read_only, egress, environment, limits, .. } = spec.clone();
        let (work, home, writable, once) = (None, Some(home), Vec::new(), false);
        Self { work, home, read_only, writable, egress, environment, limits, root, owned, once }
    }
}

/// Everything that the helper needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub build: String,
    pub tier: Tier,
    pub mounts: Vec<Mount>,
    /// What Landlock lets processes read and execute.
    pub read: Vec<PathBuf>,
    /// What Landlock lets processes write.
    pub write: Vec<PathBuf>,
    /// The file system is not the host's: our own program finds nothing of what it needs in it.
    pub foreign: bool,
    /// Variables of every process.
    pub environment: BTreeMap<String, String>,
    /// Where processes start that are not told where.
    pub directory: PathBuf,
    pub limits: Limits,
    /// It ends with its first process.
    pub once: bool,
    /// The user that processes are on this machine, where the daemon is root. In tiers with a user namespace they see another number.
    pub user: Option<u32>,
    /// Directories of the host that become that user's.
    pub handed_over: Vec<PathBuf>,
    /// What that user could not reach, and where it is put; in a directory that is covered for it, and for nobody else.
    pub staged: Vec<(PathBuf, PathBuf)>,
    pub stage: Option<PathBuf>,
    /// Directories of the host that processes write to, as they name them: they count towards the limit on disk.
    pub disks: Vec<PathBuf>,
    /// Temporary file systems: what lies in them is memory.
    pub memories: Vec<PathBuf>,
    /// Whether a cgroup limits memory and processes.
    pub counted: bool,
    /// Where `bwrap` is.
    pub bubblewrap: Option<PathBuf>,
    /// Whether there is a proxy to the network.
    pub egress: bool,
    /// What is written to cargo's configuration, if there is none in the home.
    pub cargo: Option<String>,
}

/// What of the machine goes into every plan.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub toolchains: Vec<Toolchain>,
    /// `/usr` and the like, as far as they exist here, and our own `/etc`.
    pub mounts: Vec<Mount>,
    /// What of `/proc` is covered, once it is mounted.
    pub masks: Vec<Mount>,
}

/// System directories that are shown read-only where they exist.
const SYSTEM: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"];

/// What of `/etc` is shown: public data of a distribution, and no directory that may hold a key. Copied once at the start, as every
/// mount costs a sandbox some time.
const SYSTEM_ETC: &[&str] = &[
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "pki/ca-trust/extracted",
    "ca-certificates",
    "magic",
    "services",
    "protocols",
    // Package clients ask for them, and take a file that is there and not to be read as a fault.
    "os-release",
    "debian_version",
    "lsb-release",
    "redhat-release",
    "system-release",
    "alpine-release",
];

/// What of `/etc` changes with the packages that are installed: shown as it is at the moment.
const LIVE_ETC: &[&str] = &["alternatives", "ld.so.cache"];

/// Files of `/proc` that say too much; those that cannot be read anyway need no mask.
const TELLTALES: &[&str] = &[
    "kcore",
    "keys",
    "kmsg",
    "timer_list",
    "sched_debug",
    "kallsyms",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
    "vmallocinfo",
];

/// What a program may want to read outside of `/usr` in the last tier. Facts about the machine, nothing about its processes.
const FACTS: &[&str] = &[
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/version",
    "/proc/filesystems",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/pid_max",
    "/sys/devices/system/cpu",
    "/sys/kernel/mm/transparent_hugepage",
];

const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

const ETC: &[(&str, &str)] = &[
    (
        "passwd",
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("group", "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
    ("hostname", "sandbox\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ("resolv.conf", ""),
];

impl Host {
    /// Looks at the machine and makes our own `/etc` in `directory`.
    pub(super) fn look(directory: &Path, toolchains: Vec<Toolchain>) -> io::Result<Self> {
        let mut mounts = Vec::new();
        for path in SYSTEM.iter().map(PathBuf::from) {
            match std::fs::symlink_metadata(&path) {
                // `/bin` is a link to `usr/bin` nearly everywhere, and what it leads to is there as well.
                Ok(found) if found.is_symlink() => {
                    mounts.push(Mount::Link { target: std::fs::read_link(&path)?, at: path });
                }
                Ok(_) => mounts.push(Mount::Read { host: path.clone(), at: path }),
                Err(_) => {}
            }
        }
        let etc = directory.join("etc");
        std::fs::create_dir_all(&etc)?;
        for name in SYSTEM_ETC {
            let to = etc.join(name);
            to.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            copy(&Path::new("/etc").join(name), &to, 0)?;
        }
        for (name, content) in ETC {
            std::fs::write(etc.join(name), content)?;
        }
        for_everybody(&etc)?;
        mounts.push(Mount::Read { host: etc.clone(), at: "/etc".into() });
        for name in LIVE_ETC {
            // A mount needs something to be mounted upon, and `/etc` is read-only inside.
            let (at, point) = (Path::new("/etc").join(name), etc.join(name));
            let Ok(host) = at.canonicalize() else { continue };
            if host.is_dir() {
                std::fs::create_dir_all(point)?;
            } else {
                std::fs::write(point, "")?;
            }
            mounts.push(Mount::Read { host, at });
        }
        let masks = TELLTALES
            .iter()
            .map(|name| Path::new("/proc").join(name))
            .filter(|path| std::fs::File::open(path).is_ok())
            .map(|at| Mount::Mask { at })
            .collect();
        Ok(Self { toolchains, mounts, masks })
    }
}

/// Lets everybody read what is below `path`, whatever the daemon's mask says.
fn for_everybody(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let found = std::fs::symlink_metadata(path)?;
    if found.is_dir() {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
        for entry in std::fs::read_dir(path)? {
            for_everybody(&entry?.path())?;
        }
    } else if found.is_file() {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o644))?;
    }
    Ok(())
}

/// Copies what is public below `/etc`. A link to what is shown anyway stays one; of other links the content is taken.
fn copy(from: &Path, to: &Path, depth: u32) -> io::Result<()> {
    /// Nothing that belongs here is larger.
    const LARGEST: u64 = 4 << 20;
    /// Nor deeper, unless links go round in circles.
    const DEEPEST: u32 = 6;
    // What is not there, or not for us to read, is not for the command either.
    let Ok(real) = from.canonicalize() else { return Ok(()) };
    let link = std::fs::symlink_metadata(from)?.is_symlink();
    if link && SYSTEM.iter().any(|shown| real.starts_with(shown)) {
        return std::os::unix::fs::symlink(real, to);
    }
    let Ok(found) = std::fs::metadata(&real) else { return Ok(()) };
    if found.is_dir() && depth < DEEPEST {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(&real).into_iter().flatten() {
            let name = entry?.file_name();
            copy(&real.join(&name), &to.join(&name), depth + 1)?;
        }
    } else if found.is_file()
        && found.len() <= LARGEST
        && let Ok(content) = std::fs::read(&real)
    {
        std::fs::write(to, content)?;
    }
    Ok(())
}

/// The toolchains that `user` can get at: in the last tier a user of its own cannot enter somebody's home, wherever Landlock would let it.
pub(super) fn usable(toolchains: &[Toolchain], tier: Tier, user: Option<u32>) -> Vec<&Toolchain> {
    let gets_at = |path: &PathBuf| everybody_reads(path) && (tier.own_file_system() || everybody_reaches(path));
    toolchains.iter().filter(|found| user.is_none() || found.paths.iter().all(gets_at)).collect()
}

fn everybody_reads(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|found| {
        let needed = if found.is_dir() { 0o005 } else { 0o004 };
        found.permissions().mode() & needed == needed
    })
}

/// Where things can be put that a user could not reach: of these the first that is there and leads to none of them.
const STAGES: [&str; 5] = ["/mnt", "/media", "/srv", "/opt", "/tmp"];

/// Has `plan` find what its user cannot reach where that is put. Nothing but directories in which everybody may search stands above it.
pub(super) fn stage(plan: &mut Plan) {
    let sources = |mounts: &[Mount]| -> Vec<PathBuf> {
        let host = |mount: &Mount| match mount {
            Mount::Read { host, .. } | Mount::Write { host, .. } => Some(host.clone()),
            _ => None,
        };
        mounts.iter().filter_map(host).collect()
    };
    let all = sources(&plan.mounts);
    let free = |stage: &&str| {
        let found = std::fs::symlink_metadata(stage).is_ok_and(|found| found.is_dir());
        found && everybody_reaches(&Path::new(stage).join("x")) && !all.iter().any(|path| path.starts_with(stage))
    };
    plan.stage = STAGES.iter().find(|stage| free(stage)).map(PathBuf::from);
    let Some(stage) = &plan.stage else { return };
    for mount in &mut plan.mounts {
        if let Mount::Read { host, .. } | Mount::Write { host, .. } = mount
            && !everybody_reaches(host)
        {
            let at = stage.join(plan.staged.len().to_string());
            plan.staged.push((std::mem::replace(host, at.clone()), at));
        }
    }
}

/// Whether every directory above `path` can be entered by everybody.
pub(super) fn everybody_reaches(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let enters = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    path.ancestors().skip(1).all(enters)
}

/// The plan for `ground` under `tier`. `scratch` is a private directory, made for this sandbox, that the last tier writes to.
pub(super) fn plan(ground: &Ground, tier: Tier, host: &Host, scratch: &Path, user: Option<u32>) -> Plan {
    let own = tier.own_file_system();
    let toolchains = if ground.root == Root::Host { usable(&host.toolchains, tier, user) } else { Vec::new() };
    let toolchain_paths = || toolchains.iter().flat_map(|found| found.paths.iter().cloned());

    let mut environment = BTreeMap::new();
    let home = if own { HOME.into() } else { ground.home.clone().unwrap_or_else(|| scratch.into()) };
    let work = ground.work.as_ref().map(|work| if own { PathBuf::from(WORK) } else { work.clone() });
    let temporary = if own { PathBuf::from("/tmp") } else { scratch.into() };
    let mut path: Vec<String> = Vec::new();
    if ground.home.is_some() {
        // What a person would have there: `pip install --user`, `cargo install`.
        path.extend([".local/bin", ".cargo/bin"].map(|below| home.join(below).display().to_string()));
    }
    for found in &toolchains {
        environment.extend(found.environment.clone());
        path.extend(found.search.iter().map(|p| p.display().to_string()));
    }
    path.extend(["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"].map(str::to_owned));
    let mut seen = std::collections::BTreeSet::new();
    path.retain(|entry| seen.insert(entry.clone()));
    let mut set = |name: &str, value: String| environment.insert(name.to_owned(), value);
    set("PATH", path.join(":"));
    set("HOME", home.display().to_string());
    set("TMPDIR", temporary.display().to_string());
    set("LANG", "C.UTF-8".into());
    set("USER", "user".into());
    set("LOGNAME", "user".into());
    environment.extend(ground.environment.clone());

    let (mounts, read, write) = if own {
        // The file system holds nothing that may not be read, so Landlock's part is to say where may be written.
        let mut write = ["/tmp", HOME, "/dev"].map(PathBuf::from).to_vec();
        write.extend(work.clone());
        write.extend(ground.writable.iter().map(|path| path.inside.clone()));
        (mounts(ground, tier, host, toolchain_paths().collect()), vec![PathBuf::from("/")], write)
    } else {
        let mut read: Vec<PathBuf> = SYSTEM.iter().chain(FACTS).map(PathBuf::from).collect();
        let etc = SYSTEM_ETC.iter().chain(LIVE_ETC).chain(&["passwd", "group", "hosts", "nsswitch.conf"]);
        read.extend(etc.map(|name| Path::new("/etc").join(name)));
        read.extend(toolchain_paths());
        read.extend(ground.read_only.iter().map(|path| path.host.clone()));
        let mut write: Vec<PathBuf> = DEVICES.iter().map(PathBuf::from).collect();
        write.push(scratch.to_owned());
        write.extend(work.clone());
        write.extend(ground.home.clone());
        write.extend(ground.writable.iter().map(|path| path.host.clone()));
        (Vec::new(), read, write)
    };
    let mut disks: Vec<PathBuf> = work.iter().cloned().collect();
    disks.extend((!own).then(|| scratch.to_owned()));
    disks.extend(ground.home.is_some().then(|| home.clone()));
    disks.extend(ground.writable.iter().map(|path| tier.shown_at(&path.host, &path.inside).to_owned()));
    let mut handed_over: Vec<PathBuf> = ground.work.iter().cloned().collect();
    handed_over.extend((!own).then(|| scratch.to_owned()));
    handed_over.extend(ground.home.clone().filter(|_| !ground.owned));
    handed_over.extend(ground.writable.iter().map(|path| path.host.clone()));
    let mut memories = Vec::new();
    if own {
        memories.extend(["/tmp", "/dev/shm"].map(PathBuf::from));
        memories.extend(ground.home.is_none().then(|| PathBuf::from(HOME)));
    }
    Plan {
        build: BUILD.into(),
        tier,
        mounts,
        read,
        write,
        foreign: ground.root != Root::Host,
        environment,
        directory: work.unwrap_or(home),
        limits: ground.limits.clone(),
        once: ground.once,
        user,
        handed_over,
        staged: Vec::new(),
        stage: None,
        disks,
        memories,
        counted: false,
        bubblewrap: None,
        egress: !ground.egress.is_empty(),
        cargo: None,
    }
}

/// What stands at the top of a root file system, but for what every sandbox has of its own.
fn of_root(root: &Path) -> Vec<Mount> {
    const OWN: [&str; 6] = ["proc", "dev", "sys", "tmp", "home", ".nightcrew"];
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut found: Vec<Mount> = entries
        .filter(|entry| !OWN.iter().any(|own| entry.file_name() == *own))
        .filter_map(|entry| {
            let (host, at) = (entry.path(), Path::new("/").join(entry.file_name()));
            let kind = entry.file_type().ok()?;
            if kind.is_symlink() {
                return Some(Mount::Link { target: std::fs::read_link(&host).ok()?, at });
            }
            (kind.is_dir() || kind.is_file()).then_some(Mount::Read { host, at })
        })
        .collect();
    found.sort_by_key(|mount| format!("{mount:?}"));
    found
}

/// What lies in temporary file systems stays when its process is ended, so all of them together leave memory for further processes.
fn scratch_bytes(limits: &Limits) -> u64 {
    limits.scratch_bytes.min(limits.memory_bytes / 4)
}

fn mounts(ground: &Ground, tier: Tier, host: &Host, toolchains: Vec<PathBuf>) -> Vec<Mount> {
    let size_bytes = scratch_bytes(&ground.limits);
    let mut mounts = vec![Mount::Proc, Mount::Dev { size_bytes }];
    mounts.push(Mount::Tmpfs { at: "/tmp".into(), size_bytes });
    // Before the toolchains, which may lie in a home of this name.
    mounts.push(match &ground.home {
        None => Mount::Tmpfs { at: HOME.into(), size_bytes },
        Some(home) => Mount::Write { host: home.clone(), at: HOME.into() },
    });
    match &ground.root {
        Root::Host => mounts.extend(host.mounts.iter().cloned()),
        Root::Directory(root) => mounts.extend(of_root(root)),
    }
    mounts.extend(toolchains.into_iter().map(|path| Mount::Read { host: path.clone(), at: path }));
    for path in &ground.read_only {
        mounts.push(Mount::Read { host: path.host.clone(), at: path.inside.clone() });
    }
    mounts.extend(ground.work.iter().map(|work| Mount::Write { host: work.clone(), at: WORK.into() }));
    for path in &ground.writable {
        mounts.push(Mount::Write { host: path.host.clone(), at: path.inside.clone() });
    }
    mounts.extend(host.masks.iter().cloned());
    if tier == Tier::Namespaces {
        // Bubblewrap does these itself.
        mounts.extend(
            ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"].map(|at| Mount::Freeze { at: at.into() }),
        );
    }
    mounts
}

/// The arguments of `bwrap` for a plan, up to and without the arguments of the helper. `helper` is bound as `init`; `libraries`, by name,
/// are what it needs where the file system has none for it.
pub(super) fn bubblewrap_arguments(plan: &Plan, helper: &Path, libraries: &[(String, PathBuf)]) -> Vec<String> {
    let mut arguments: Vec<String> = Vec::new();
    let text = |path: &Path| path.display().to_string();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
    let id = UID.to_string();
    add(&[
        "--unshare-user",
        "--uid",
        &id,
        "--gid",
        &id,
        "--disable-userns",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
    ]);
    add(&[
        "--unshare-uts",
        "--hostname",
        "sandbox",
        "--unshare-cgroup-try",
        "--new-session",
        "--as-pid-1",
        "--clearenv",
    ]);
    for mount in &plan.mounts {
        match mount {
            Mount::Tmpfs { at, size_bytes } => add(&["--size", &size_bytes.to_string(), "--tmpfs", &text(at)]),
            Mount::Proc => add(&["--proc", "/proc"]),
            Mount::Dev { size_bytes } => {
                add(&["--dev", "/dev", "--size", &size_bytes.to_string(), "--tmpfs", "/dev/shm"]);
            }
            Mount::Link { at, target } => add(&["--symlink", &text(target), &text(at)]),
            Mount::Read { host, at } => add(&["--ro-bind", &text(host), &text(at)]),
            Mount::Write { host, at } => add(&["--bind", &text(host), &text(at)]),
            Mount::Mask { at } => add(&["--ro-bind", "/dev/null", &text(at)]),
            Mount::Freeze { .. } => {}
        }
    }
    let (init, own) = (text(&Path::new(OWN).join("init")), Path::new(OWN).join("lib"));
    for (name, host) in libraries {
        add(&["--ro-bind", &text(host), &text(&own.join(name))]);
    }
    add(&["--ro-bind", &text(helper), &init, "--remount-ro", "/", "--chdir", "/", "--"]);
    if let Some((loader, _)) = libraries.iter().find(|(name, _)| name.starts_with("ld-") || name.starts_with("ld.")) {
        add(&[&text(&own.join(loader)), "--library-path", &text(&own)]);
    }
    add(&[&init]);
    arguments
}
