package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// attack is the program in the sandbox: it tries something and says how it went.
func attack(args []string) int {
	attacks[args[0]](args[1:])
	return 0
}

var attacks = map[string]func(args []string){
	"exit":    func(args []string) { n, _ := strconv.Atoi(args[0]); os.Exit(n) },
	"env":     func([]string) { fmt.Println(strings.Join(os.Environ(), " "), len(os.Args)) },
	"write":   attackWrite,
	"fill":    attackFill,
	"look":    attackLook,
	"dial":    attackDial,
	"calls":   attackCalls,
	"descend": attackDescriptors,
	"self":    attackSelf,
	"fork":    attackFork,
	"bomb":    attackBomb,
	"eat":     attackEat,
	"map":     attackMap,
	"spin":    attackSpin,
	"stay":    attackStay,
}

// errno says which error it was, in a word.
func errno(err error) string {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no.Error()
	}
	return sprint(err)
}

// attackWrite writes to each path.
func attackWrite(args []string) {
	for _, path := range args {
		fmt.Println(path, errno(os.WriteFile(path, []byte("x"), 0o644)))
	}
}

// attackFill writes to each directory until it is full, 256 MiB at most.
func attackFill(args []string) {
	chunk := make([]byte, 1<<20)
	for _, dir := range args {
		f, err := os.Create(filepath.Join(dir, "big"))
		for i := 0; i < 256 && err == nil; i++ {
			_, err = f.Write(chunk)
		}
		fmt.Println(dir, errno(err))
	}
}

// attackLook reads each directory or file.
func attackLook(args []string) {
	for _, path := range args {
		if entries, err := os.ReadDir(path); err == nil {
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			fmt.Println(path, names)
			continue
		}
		b, err := os.ReadFile(path)
		fmt.Println(path, errno(err), len(b))
	}
}

// attackDial dials network:address pairs.
func attackDial(args []string) {
	for _, a := range args {
		network, address, _ := strings.Cut(a, "|")
		c, err := net.DialTimeout(network, address, 5*time.Second)
		if err == nil {
			_ = c.Close()
		}
		fmt.Println(network, errno(err))
	}
}

// attackCalls makes system calls that it may not.
func attackCalls([]string) {
	raw := func(n uintptr, args ...uintptr) string {
		var a [3]uintptr
		copy(a[:], args)
		_, _, e := syscall.RawSyscall(n, a[0], a[1], a[2])
		return e.Error()
	}
	fmt.Println("mount", errno(syscall.Mount("none", "/tmp", "tmpfs", 0, "")))
	fmt.Println("unshare", errno(syscall.Unshare(syscall.CLONE_NEWUSER)))
	fmt.Println("ptrace", errno(syscall.PtraceAttach(os.Getppid())))
	fmt.Println("pdeathsig", raw(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, 0))
	fmt.Println("io_uring", raw(425, 1, 0))
	fmt.Println("clone3", raw(435, 0, 0))
	fmt.Println("keyctl", raw(syscall.SYS_KEYCTL, 0))
	_, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW, syscall.NETLINK_KOBJECT_UEVENT)
	fmt.Println("netlink", errno(err))
	_, err = syscall.Socket(38, syscall.SOCK_SEQPACKET, 0) // AF_ALG
	fmt.Println("crypto socket", errno(err))
}

// attackDescriptors lists what is open, besides what Go's runtime made and the
// listing itself.
func attackDescriptors([]string) {
	var open []string
	for fd := range 64 {
		link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if err == nil && !strings.Contains(link, "[event") && !strings.HasPrefix(link, "/sys/fs/cgroup/") {
			open = append(open, strconv.Itoa(fd))
		}
	}
	fmt.Println(open)
}

// attackSelf says who it is.
func attackSelf([]string) {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if slices.Contains([]string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"}, name) {
			fmt.Println(name, strings.TrimLeft(strings.TrimSpace(value), "0"))
		}
	}
	groups, _ := os.Getgroups()
	var core syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_CORE, &core)
	host, _ := os.Hostname()
	dir, _ := os.Getwd()
	procs, _ := filepath.Glob("/proc/[0-9]*")
	fmt.Println(os.Getpid(), os.Getuid(), os.Getgid(), len(groups), core.Max, host, dir, len(procs))
}

// attackFork leaves a process behind that has a session of its own and that no
// soft signal ends; its command line holds the mark.
func attackFork(args []string) {
	for range 3 {
		_, err := syscall.ForkExec("/proc/self/exe", []string{"x", "attack", "stay", args[0]},
			&syscall.ProcAttr{Sys: &syscall.SysProcAttr{Setsid: len(args) < 2}})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("forked")
	if len(args) > 2 {
		return
	}
	attackStay(nil)
}

// attackBomb forks until it may not, and says whether that was soon.
func attackBomb([]string) {
	n := 0
	for ; n < 2*tasks; n++ {
		if _, err := syscall.ForkExec("/bin/sleep", []string{"sleep", "60"}, &syscall.ProcAttr{}); err != nil {
			break
		}
	}
	fmt.Println(n > 10 && n < tasks)
	os.Exit(0)
}

var eaten [][]byte

// attackEat takes memory without end.
func attackEat([]string) {
	for {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		eaten = append(eaten, b)
	}
}

// attackMap maps a gigabyte and touches nothing.
func attackMap([]string) {
	_, err := syscall.Mmap(-1, 0, 1<<30, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	fmt.Println(errno(err))
}

// attackSpin uses a processor for 100 ms, and stays.
func attackSpin([]string) {
	var use syscall.Rusage
	for use.Utime.Nano()+use.Stime.Nano() < int64(100*time.Millisecond) {
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &use)
	}
	fmt.Println("spun")
	attackStay(nil)
}

// attackStay does not go by itself.
func attackStay(args []string) {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if len(args) == 0 {
		fmt.Println("here")
	}
	time.Sleep(10 * time.Minute)
}
