package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"blockengine/sdk/process/ring"
)

// misdeeds are what the plugin does at a write, before it serves it.
var misdeeds = map[string]func(*channel){
	"exit":  func(*channel) { os.Exit(7) },
	"panic": func(*channel) { panic("as it was told") },
	"loop": func(*channel) {
		for {
			spun.Add(1)
		}
	},
	"never":      func(*channel) { select {} },
	"memory":     func(*channel) { eat() },
	"fork":       func(*channel) { fork() },
	"log":        func(*channel) { flood() },
	"dial":       func(*channel) { dial() },
	"write-file": func(*channel) { writeFiles() },
	"index":      func(*channel) { scribble(func(h *ring.Header, _ []ring.Completion) { h.CompTail.Add(1 << 20) }) },
	"twice": func(*channel) {
		scribble(func(h *ring.Header, c []ring.Completion) { // the request that is with it
			n := h.CompTail.Load()
			last := (h.SubTail.Load() - 1) % h.Depth
			slot := unsafe.Slice((*ring.Submission)(unsafe.Add(unsafe.Pointer(h), h.First)), h.Depth)[last].Slot
			for i := range uint32(2) {
				c[(n+i)%h.Depth] = ring.Completion{Slot: slot}
			}
			h.CompTail.Store(n + 2)
		})
	},
	"foreign": func(*channel) {
		scribble(func(h *ring.Header, c []ring.Completion) {
			n := h.CompTail.Load()
			words := unsafe.Slice((*byte)(unsafe.Pointer(&c[n%uint32(len(c))])), unsafe.Sizeof(c[0]))
			for i := range words {
				words[i] = 0xee
			}
			h.CompTail.Store(n + 1)
		})
	},
	"garbage": func(*channel) {
		scribble(func(h *ring.Header, c []ring.Completion) {
			all := unsafe.Slice((*byte)(unsafe.Pointer(h)), unsafe.Sizeof(*h))
			for i := range all {
				all[i] = byte(i*7 + 1)
			}
		})
	},
}

var spun atomic.Uint64 // by loop

// eat takes memory until there is no more.
func eat() {
	var held [][]byte
	for {
		b := make([]byte, 16<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
		if len(held) > 4096 {
			panic("nobody keeps it from taking 64 GiB")
		}
	}
}

// fork leaves children behind that would outlive it, and ends.
func fork() {
	for range 3 {
		c := exec.Command("/bin/sleep", "987654")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		_ = c.Start()
	}
	os.Exit(0)
}

// flood writes a gigabyte of log, and goes on.
func flood() {
	line := strings.Repeat("x", 1023) + "\n"
	end := time.Now().Add(2 * time.Second)
	for i := 0; i < 1<<20 && time.Now().Before(end); i++ {
		_, _ = syscall.Write(2, []byte(line))
	}
}

// dial tries to reach somebody, and says who could be reached.
func dial() {
	for _, a := range []string{"127.0.0.1:" + os.Getenv("PORT"), "127.0.0.1:22"} {
		if c, err := net.DialTimeout("tcp", a, time.Second); err == nil {
			_ = c.Close()
			fmt.Fprintln(os.Stderr, "reached", a)
		}
	}
	l, err := net.Interfaces()
	fmt.Fprintf(os.Stderr, "interfaces: %d, %v\n", len(l), err)
}

// writeFiles tries to write where it may not, and says where it could.
func writeFiles() {
	for _, path := range []string{"/etc/teststore", "/usr/teststore", "/var/lib/teststore", "/root/teststore"} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err == nil {
			fmt.Fprintln(os.Stderr, "wrote", path)
		}
	}
	fmt.Fprintln(os.Stderr, "tried to write")
}

// scribble gives every region of shared memory that the process has mapped to f,
// as only a program can that does without the SDK.
func scribble(f func(h *ring.Header, c []ring.Completion)) {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if !strings.Contains(lines.Text(), "/memfd:ring-") {
			continue
		}
		var start, end uintptr
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x", &start, &end); err != nil {
			panic(err)
		}
		h := *(**ring.Header)(unsafe.Pointer(&start))
		second := start + uintptr(h.Second)
		f(h, unsafe.Slice(*(**ring.Completion)(unsafe.Pointer(&second)), h.Depth))
	}
	ringBells()
	time.Sleep(100 * time.Millisecond) // for the engine to see it
}

// ringBells wakes the engine. The counter is among all that the process has.
func ringBells() {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	for _, e := range fds {
		if what, _ := os.Readlink("/proc/self/fd/" + e.Name()); what != "anon_inode:[eventfd]" {
			continue
		}
		if fd, err := strconv.Atoi(e.Name()); err == nil {
			_, _ = syscall.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		}
	}
}
