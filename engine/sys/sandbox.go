package sys

import (
	"math"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags of NewNamespaces and mounts that the sandbox uses.
const (
	NamespacesAll = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	NamespaceNet  = unix.CLONE_NEWNET
	NamespaceUser = unix.CLONE_NEWUSER

	CapSetpcap  = unix.CAP_SETPCAP
	CapSysAdmin = unix.CAP_SYS_ADMIN
)

// MountFlags are what a mount does not allow.
type MountFlags uint64

// The flags of mounts.
const (
	ReadOnly MountFlags = unix.MOUNT_ATTR_RDONLY
	NoSUID   MountFlags = unix.MOUNT_ATTR_NOSUID
	NoDev    MountFlags = unix.MOUNT_ATTR_NODEV
	NoExec   MountFlags = unix.MOUNT_ATTR_NOEXEC
)

// MakeMountsPrivate cuts this mount namespace off from the one that it was made
// of: no mount passes from one to the other any more.
func MakeMountsPrivate() error {
	return call("mount", "/ as private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}

// CloneTree takes what is mounted at path, with all below it, into hand. It
// stays in hand whatever is done to the place; AttachTree puts it somewhere.
func CloneTree(path string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	return fd, call("open_tree", path, err)
}

// AttachTree mounts a tree in hand at path.
func AttachTree(fd int, path string) error {
	return call("move_mount", path, unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// RestrictTree sets flags of a tree in hand, at each mount in it.
func RestrictTree(fd int, f MountFlags) error {
	a := unix.MountAttr{Attr_set: uint64(f)}
	return call("mount_setattr", "", unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &a))
}

// RestrictMounts sets flags of what is mounted at path, and with all set at each
// mount below it.
func RestrictMounts(path string, f MountFlags, all bool) error {
	var flags uint
	if all {
		flags = unix.AT_RECURSIVE
	}
	return call("mount_setattr", path, unix.MountSetattr(unix.AT_FDCWD, path, flags, &unix.MountAttr{Attr_set: uint64(f)}))
}

// MountTmpfs mounts an empty directory in memory; options as in tmpfs(5).
func MountTmpfs(path, options string) error {
	return call("mount", "tmpfs at "+path, unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options))
}

// MountProc mounts this pid namespace's /proc, read-only.
func MountProc(path, options string) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
	return call("mount", "proc at "+path, unix.Mount("proc", path, "proc", flags, options))
}

// SetHostname names the machine in this uts namespace.
func SetHostname(name string) error {
	return call("sethostname", name, unix.Sethostname([]byte(name)))
}

// DieWithParent has the kernel kill this process when the thread that started
// it ends. The calling thread must be the one that stays. A change of user
// undoes it.
func DieWithParent() error {
	return call("prctl", "PR_SET_PDEATHSIG", unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0))
}

// CloseOnExec marks all descriptors from first on: they do not survive an exec.
func CloseOnExec(first int) error {
	return call("close_range", "", unix.CloseRange(uint(first), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC))
}

// BecomeUser makes the calling thread, which must be locked, another user's: no
// group but its own, no capabilities.
func BecomeUser(id int) error {
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return &CallError{Call: "setgroups", Errno: e}
	}
	u := uintptr(id)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, u, u, u); e != 0 {
		return &CallError{Call: "setresgid", Errno: e}
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, u, u, u); e != 0 {
		return &CallError{Call: "setresuid", Errno: e}
	}
	return nil
}

// DropBounding sees to it that no exec can give the calling thread a capability
// again. It needs CAP_SETPCAP.
func DropBounding() error {
	for c := range uintptr(64) {
		_, _, e := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0)
		if e == unix.EINVAL {
			return nil // the kernel knows no more
		}
		if e != 0 {
			return &CallError{Call: "prctl", About: "PR_CAPBSET_DROP", Errno: e}
		}
	}
	return nil
}

// DropCapabilities takes all capabilities from the calling thread, and the way
// to new ones by set-uid programs.
func DropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return call("prctl", "PR_CAP_AMBIENT_CLEAR_ALL", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return call("capset", "", unix.Capset(&header, &none[0]))
}

// NoNewPrivileges is what a filter of system calls needs.
func NoNewPrivileges() error {
	return call("prctl", "PR_SET_NO_NEW_PRIVS", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}

// Limit is a resource limit of the sandbox.
type Limit struct {
	What  int
	Name  string
	Value uint64
}

// The resources that Limit is about.
const (
	LimitCore     = unix.RLIMIT_CORE
	LimitFiles    = unix.RLIMIT_NOFILE
	LimitTasks    = unix.RLIMIT_NPROC
	LimitData     = unix.RLIMIT_DATA
	LimitLocked   = unix.RLIMIT_MEMLOCK
	LimitQueues   = unix.RLIMIT_MSGQUEUE
	LimitRealtime = unix.RLIMIT_RTPRIO
)

// Lower sets a limit, soft and hard, or leaves a stricter one that is there.
func (l Limit) Lower() error {
	var have unix.Rlimit
	if err := unix.Getrlimit(l.What, &have); err != nil {
		return call("getrlimit", l.Name, err)
	}
	v := min(l.Value, have.Max)
	return call("setrlimit", l.Name, unix.Setrlimit(l.What, &unix.Rlimit{Cur: v, Max: v}))
}

// ExecFile executes an open file in place of this process. It does not tell the
// Go scheduler, so that no thread is made meanwhile: run it at GOMAXPROCS 1.
func ExecFile(fd int, args, env []string) error {
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return call("execveat", "arguments", err)
	}
	envv, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return call("execveat", "environment", err)
	}
	var empty byte
	_, _, e := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty)),
		uintptr(unsafe.Pointer(unsafe.SliceData(argv))), uintptr(unsafe.Pointer(unsafe.SliceData(envv))), unix.AT_EMPTY_PATH, 0)
	return &CallError{Call: "execveat", Errno: e}
}

// WaitExited waits until a child has ended, and leaves it to be reaped.
func WaitExited(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return call("waitid", "", err)
		}
	}
}

// Pidfd holds on to a process: its number is nobody else's in the eyes of the
// descriptor, even when the process has ended.
func Pidfd(pid int) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	return fd, call("pidfd_open", "", err)
}

// PidfdKill sends SIGKILL.
func PidfdKill(fd int) error {
	return call("pidfd_send_signal", "", unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
}

// PidfdWait waits until the process has ended, and says whether it has.
func PidfdWait(fd int, patience time.Duration) (bool, error) {
	deadline := time.Now().Add(patience)
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(max(time.Until(deadline), 0).Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		return n == 1, call("poll", "a pidfd", err)
	}
}

// KillGroup sends SIGKILL to a process group.
func KillGroup(leader int) error {
	return call("kill", "a process group", unix.Kill(-leader, unix.SIGKILL))
}

// GroupEmpty says whether there is no process in a process group.
func GroupEmpty(leader int) bool { return unix.Kill(-leader, 0) == unix.ESRCH }

// IsCgroup2 says whether path lies in a cgroup v2 hierarchy.
func IsCgroup2(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// The error numbers that the sandbox explains.
const (
	EPERM      = unix.EPERM
	EACCES     = unix.EACCES
	ENOSYS     = unix.ENOSYS
	EINVAL     = unix.EINVAL
	ENOSPC     = unix.ENOSPC
	EBUSY      = unix.EBUSY
	ESRCH      = unix.ESRCH
	ENOEXEC    = unix.ENOEXEC
	EOPNOTSUPP = unix.EOPNOTSUPP
	ENODEV     = unix.ENODEV
)
