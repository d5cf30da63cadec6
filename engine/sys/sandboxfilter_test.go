//go:build amd64 || arm64

package sys

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// seccompCall is what the kernel shows a filter.
type seccompCall struct {
	call, arch uint32
	args       [6]uint64
}

func (c seccompCall) bytes() []byte {
	b := make([]byte, dataArgs+8*len(c.args))
	binary.LittleEndian.PutUint32(b[dataCall:], c.call)
	binary.LittleEndian.PutUint32(b[dataArch:], c.arch)
	for i, a := range c.args {
		binary.LittleEndian.PutUint64(b[dataArgs+8*i:], a)
	}
	return b
}

// judge runs a filter as the kernel does.
func judge(t *testing.T, prog []unix.SockFilter, c seccompCall) uint32 {
	t.Helper()
	data := c.bytes()
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		f := prog[pc]
		yes := false
		switch f.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[f.K:])
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= f.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return f.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			yes = acc == f.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			yes = acc >= f.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			yes = acc&f.K != 0
		default:
			t.Fatalf("instruction %d is %#x", pc, f.Code)
		}
		if yes {
			pc += int(f.Jt)
		} else {
			pc += int(f.Jf)
		}
	}
	t.Fatal("the filter ends without an answer")
	return 0
}

func TestSandboxFilterAnswers(t *testing.T) {
	closed, open, bound := SandboxRules{}, SandboxRules{Network: true}, SandboxRules{BoundShared: true}
	all := []SandboxRules{closed, open, bound, {Network: true, BoundShared: true}}
	const high = 1 << 32 // in the half of an argument that the kernel ignores
	for _, c := range []struct {
		name  string
		rules []SandboxRules
		call  seccompCall
		want  uint32
	}{
		{"read", all, seccompCall{call: unix.SYS_READ}, answerAllow},
		{"futex", all, seccompCall{call: unix.SYS_FUTEX}, answerAllow},
		{"execve", all, seccompCall{call: unix.SYS_EXECVE}, answerAllow},
		{"execveat", all, seccompCall{call: unix.SYS_EXECVEAT}, answerAllow},
		{"exit_group", all, seccompCall{call: unix.SYS_EXIT_GROUP}, answerAllow},
		{"another processor", all, seccompCall{call: unix.SYS_READ, arch: unix.AUDIT_ARCH_I386}, answerKill},
		{"another processor's byte order", all, seccompCall{call: unix.SYS_READ, arch: auditArch &^ 0x40000000}, answerKill},
		{"x32", all, seccompCall{call: 0x40000000}, answerKill},
		{"no call", all, seccompCall{call: 0xffffffff}, answerKill},
		{"mount", all, seccompCall{call: unix.SYS_MOUNT}, answerEPERM},
		{"memfd_create", all, seccompCall{call: unix.SYS_MEMFD_CREATE}, answerEPERM},
		{"clone3", all, seccompCall{call: unix.SYS_CLONE3}, noCall},
		{"thread", all, seccompCall{call: unix.SYS_CLONE, args: [6]uint64{unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND}}, answerAllow},
		{"fork", all, seccompCall{call: unix.SYS_CLONE, args: [6]uint64{uint64(unix.SIGCHLD)}}, answerAllow},
		{"user namespace", all, seccompCall{call: unix.SYS_CLONE, args: [6]uint64{unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}}, answerEPERM},
		{"network namespace", all, seccompCall{call: unix.SYS_CLONE, args: [6]uint64{high | unix.CLONE_NEWNET}}, answerEPERM},
		{"live on", all, seccompCall{call: unix.SYS_PRCTL, args: [6]uint64{unix.PR_SET_PDEATHSIG, 0}}, answerEPERM},
		{"live on with SIGURG", all, seccompCall{call: unix.SYS_PRCTL, args: [6]uint64{high | unix.PR_SET_PDEATHSIG, uint64(unix.SIGURG)}}, answerEPERM},
		{"die", all, seccompCall{call: unix.SYS_PRCTL, args: [6]uint64{unix.PR_SET_PDEATHSIG, uint64(unix.SIGKILL)}}, answerAllow},
		{"name", all, seccompCall{call: unix.SYS_PRCTL, args: [6]uint64{unix.PR_SET_NAME, 0}}, answerAllow},
		{"type", all, seccompCall{call: unix.SYS_IOCTL, args: [6]uint64{0, unix.TIOCSTI}}, answerEPERM},
		{"type, with more bits", all, seccompCall{call: unix.SYS_IOCTL, args: [6]uint64{0, high | unix.TIOCSTI}}, answerEPERM},
		{"ioctl", all, seccompCall{call: unix.SYS_IOCTL, args: [6]uint64{0, unix.TIOCGWINSZ}}, answerAllow},
		{"unix socket", all, seccompCall{call: unix.SYS_SOCKET, args: [6]uint64{unix.AF_UNIX}}, answerAllow},
		{"pair", all, seccompCall{call: unix.SYS_SOCKETPAIR, args: [6]uint64{unix.AF_UNIX}}, answerAllow},
		{"pair of others", all, seccompCall{call: unix.SYS_SOCKETPAIR, args: [6]uint64{unix.AF_TIPC}}, noFamily},
		{"internet", []SandboxRules{closed, bound}, seccompCall{call: unix.SYS_SOCKET, args: [6]uint64{unix.AF_INET}}, noFamily},
		{"internet granted", []SandboxRules{open}, seccompCall{call: unix.SYS_SOCKET, args: [6]uint64{unix.AF_INET}}, answerAllow},
		{"internet 6 granted", []SandboxRules{open}, seccompCall{call: unix.SYS_SOCKET, args: [6]uint64{unix.AF_INET6}}, answerAllow},
		{"routes", []SandboxRules{closed}, seccompCall{call: unix.SYS_SOCKET, args: [6]uint64{unix.AF_NETLINK}}, noFamily},
		{"routes granted", []SandboxRules{open}, seccompCall{call: unix.SYS_SOCKET, args: [6]uint64{unix.AF_NETLINK}}, answerAllow},
		{"firewall", all, seccompCall{call: unix.SYS_SOCKET, args: [6]uint64{unix.AF_NETLINK, 0, unix.NETLINK_NETFILTER}}, noFamily},
		{"packets", all, seccompCall{call: unix.SYS_SOCKET, args: [6]uint64{unix.AF_PACKET}}, noFamily},
		{"vsock", all, seccompCall{call: unix.SYS_SOCKET, args: [6]uint64{unix.AF_VSOCK}}, noFamily},
		{"shared memory", []SandboxRules{bound}, seccompCall{call: unix.SYS_MMAP, args: [6]uint64{3: unix.MAP_SHARED | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE}}, answerEPERM},
		{"shared memory, counted", []SandboxRules{closed}, seccompCall{call: unix.SYS_MMAP, args: [6]uint64{3: unix.MAP_SHARED | unix.MAP_ANONYMOUS}}, answerAllow},
		{"shared file", all, seccompCall{call: unix.SYS_MMAP, args: [6]uint64{3: unix.MAP_SHARED}}, answerAllow},
		{"private memory", all, seccompCall{call: unix.SYS_MMAP, args: [6]uint64{3: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS}}, answerAllow},
	} {
		for _, r := range c.rules {
			call := c.call
			if call.arch == 0 {
				call.arch = auditArch
			}
			if got := judge(t, r.program(), call); got != c.want {
				t.Errorf("%s with %+v: %#x, want %#x", c.name, r, got, c.want)
			}
		}
	}
}

// TestSandboxFilterLists looks at each call of the lists.
func TestSandboxFilterLists(t *testing.T) {
	prog := SandboxRules{}.program()
	if len(prog) > unix.BPF_MAXINSNS {
		t.Fatalf("%d instructions", len(prog))
	}
	denied := slices.Concat(deniedCalls, deniedHere)
	for _, n := range denied {
		if got := judge(t, prog, seccompCall{call: n, arch: auditArch}); got != answerEPERM {
			t.Errorf("call %d: %#x", n, got)
		}
	}
	slices.Sort(denied)
	if len(slices.Compact(denied)) != len(deniedCalls)+len(deniedHere) {
		t.Error("a call is listed twice")
	}
}

// TestSandboxFilterInstalled has a process of its own try all denied calls.
func TestSandboxFilterInstalled(t *testing.T) {
	if os.Getenv("SANDBOX_FILTER_TEST") == "" {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe, "-test.run=^TestSandboxFilterInstalled$", "-test.v")
		cmd.Env = append(os.Environ(), "SANDBOX_FILTER_TEST=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "all were refused") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	runtime.LockOSThread() // and never unlocked: the thread is not for others
	if err := NoNewPrivileges(); err != nil {
		t.Fatal(err)
	}
	if err := (SandboxRules{BoundShared: true}).Install(); err != nil {
		t.Fatal(err)
	}
	for _, n := range slices.Concat(deniedCalls, deniedHere) {
		// Arguments that no call could do anything with.
		_, _, e := unix.RawSyscall6(uintptr(n), ^uintptr(0), ^uintptr(0), ^uintptr(0), ^uintptr(0), ^uintptr(0), ^uintptr(0))
		if e != unix.EPERM {
			t.Errorf("call %d: %v", n, e)
		}
	}
	if _, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_ANONYMOUS); err != unix.EPERM {
		t.Errorf("shared memory: %v", err)
	}
	if _, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		t.Errorf("private memory: %v", err)
	}
	if _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err != unix.EAFNOSUPPORT {
		t.Errorf("internet: %v", err)
	}
	fmt.Println("all were refused")
}
