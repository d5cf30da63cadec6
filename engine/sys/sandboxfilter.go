//go:build amd64 || arm64

package sys

import (
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SandboxRules say which system calls a program does not get. The kernel holds
// the thread that calls Install, what it executes and all that those start to
// them; nothing takes them away again.
//
// What is refused fails with EPERM, clone3 with ENOSYS (its flags lie in
// memory, where a filter cannot look; C libraries fall back to clone), sockets
// of other families with EAFNOSUPPORT. A call in another ABI, whose numbers
// mean something else, kills the process.
type SandboxRules struct {
	// Network allows internet sockets and a look at the interfaces.
	Network bool
	// BoundShared refuses anonymous shared memory: what a watch over the
	// process's own memory does not count.
	BoundShared bool
}

// Where a filter finds what, in struct seccomp_data (seccomp(2)). Of arguments,
// which have 64 bits, those that matter here lie in the lower half.
const (
	dataCall = 0
	dataArch = 4
	dataArgs = 16
)

// Answers of a filter.
const (
	answerAllow = unix.SECCOMP_RET_ALLOW
	answerKill  = unix.SECCOMP_RET_KILL_PROCESS
	answerErrno = unix.SECCOMP_RET_ERRNO
	answerEPERM = answerErrno | uint32(unix.EPERM)
	noFamily    = answerErrno | uint32(unix.EAFNOSUPPORT)
	noCall      = answerErrno | uint32(unix.ENOSYS)
)

// newNamespaces are the flags of clone(2) that make namespaces.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// Install puts the rules into force for this thread, which must be locked and
// have no_new_privs.
func (r SandboxRules) Install() error {
	prog := r.program()
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: unsafe.SliceData(prog)}
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog)))
	if e != 0 {
		return &CallError{Call: "seccomp", About: "a filter", Errno: e}
	}
	return nil
}

// program is the filter. The accumulator holds the call's number wherever a
// rule begins; each rule ends with an answer or falls through.
func (r SandboxRules) program() []unix.SockFilter {
	p := []unix.SockFilter{
		load(dataArch), jump(unix.BPF_JEQ, auditArch, 1, 0), answer(answerKill),
		load(dataCall), jump(unix.BPF_JGE, foreignCalls, 0, 1), answer(answerKill),
	}
	for _, n := range slices.Concat(deniedCalls, deniedHere) {
		p = append(p, jump(unix.BPF_JEQ, n, 0, 1), answer(answerEPERM))
	}
	p = append(p, jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1), answer(noCall))
	p = append(p, onCall(unix.SYS_CLONE, load(argument(0)), jump(unix.BPF_JSET, newNamespaces, 0, 1), answer(answerEPERM))...)
	// The program cannot have itself spared when the engine dies.
	p = append(p, onCall(unix.SYS_PRCTL, load(argument(0)), jump(unix.BPF_JEQ, unix.PR_SET_PDEATHSIG, 0, 3),
		load(argument(1)), jump(unix.BPF_JEQ, uint32(unix.SIGKILL), 1, 0), answer(answerEPERM))...)
	// Typing into the terminal that the engine was started from.
	p = append(p, onCall(unix.SYS_IOCTL, append(denyArgument(1, unix.TIOCSTI, answerEPERM), denyArgument(1, unix.TIOCLINUX, answerEPERM)...)...)...)
	if r.BoundShared {
		const both = unix.MAP_SHARED | unix.MAP_ANONYMOUS
		p = append(p, onCall(unix.SYS_MMAP, load(argument(3)), and(both), jump(unix.BPF_JEQ, both, 0, 1), answer(answerEPERM))...)
	}
	p = append(p, onCall(unix.SYS_SOCKETPAIR, allowOnly(unix.AF_UNIX)...)...)
	p = append(p, onCall(unix.SYS_SOCKET, r.socket()...)...)
	return append(p, answer(answerAllow))
}

// socket is the rule for socket(2).
func (r SandboxRules) socket() []unix.SockFilter {
	if !r.Network {
		return allowOnly(unix.AF_UNIX)
	}
	// Netlink only to look at routes and interfaces, protocol 0.
	netlink := []unix.SockFilter{
		load(argument(0)), jump(unix.BPF_JEQ, unix.AF_NETLINK, 0, 3),
		load(argument(2)), jump(unix.BPF_JEQ, unix.NETLINK_ROUTE, 0, 1), answer(answerAllow),
	}
	return append(netlink, allowOnly(unix.AF_UNIX, unix.AF_INET, unix.AF_INET6)...)
}

// onCall makes a rule of what to do if the call is number n; what falls through
// has the number in the accumulator again.
func onCall(n uint32, then ...unix.SockFilter) []unix.SockFilter {
	rule := append([]unix.SockFilter{jump(unix.BPF_JEQ, n, 0, uint8(len(then))+1)}, then...)
	return append(rule, load(dataCall))
}

// denyArgument answers if the lower half of argument i is v.
func denyArgument(i int, v, with uint32) []unix.SockFilter {
	return []unix.SockFilter{load(argument(i)), jump(unix.BPF_JEQ, v, 0, 1), answer(with)}
}

// allowOnly answers for a call whose first argument is a socket's family.
func allowOnly(families ...uint32) []unix.SockFilter {
	p := []unix.SockFilter{load(argument(0))}
	for _, f := range families {
		p = append(p, jump(unix.BPF_JEQ, f, 0, 1), answer(answerAllow))
	}
	return append(p, answer(noFamily))
}

func argument(i int) uint32 { return dataArgs + 8*uint32(i) }

func load(at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
}

func and(k uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: k}
}

func jump(how uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | how | unix.BPF_K, Jt: yes, Jf: no, K: k}
}

func answer(with uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: with}
}
