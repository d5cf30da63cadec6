package nbd

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"blockengine/engine/sys"
	"blockengine/internal/nbdtest"
)

func (r *rig) uri() string { return "nbd+unix:///disk?socket=" + r.path }

func TestNbdinfo(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	r.add(Export{Name: "second ☂", Volume: r.volume, ReadOnly: true})
	got := nbdtest.Nbdinfo(t, r.uri(), "--list")
	if len(got) != 2 {
		t.Fatalf("%+v", got)
	}
	e := got[0]
	if e.Name != "disk" || e.Description != "a disk" || e.Size != 1<<20 || e.ReadOnly || !e.MultiConn || !e.Flush || !e.FUA ||
		!e.Trim || !e.Zero || !e.DF || !e.Cache || !e.FastZero || len(e.Contexts) != 1 || e.BlockMax != maxPayload {
		t.Errorf("%+v", e)
	}
	if e := got[1]; e.Name != "second ☂" || !e.ReadOnly || e.Trim {
		t.Errorf("%+v", e)
	}
}

// An image goes in and comes back; holes stay holes.
func TestCopies(t *testing.T) {
	const size = 24 << 20
	content := make([]byte, size)
	copy(content[1<<20:], pattern(5<<20, 1))
	copy(content[20<<20:], pattern(100, 2))
	for _, tool := range []string{"nbdcopy", "qemu-img"} {
		t.Run(tool, func(t *testing.T) {
			r := newRig(t, newDisk(size))
			image := nbdtest.Image(t, size, content)
			back := filepath.Join(t.TempDir(), "back")
			switch tool {
			case "nbdcopy":
				nbdtest.MustRun(t, 0, "nbdcopy", "--flush", image, r.uri())
				nbdtest.MustRun(t, 0, "nbdcopy", r.uri(), back)
			case "qemu-img":
				nbdtest.MustRun(t, 0, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, r.uri())
				nbdtest.MustRun(t, 0, "qemu-img", "convert", "-f", "raw", "-O", "raw", r.uri(), back)
			}
			nbdtest.MustRun(t, 0, "qemu-img", "compare", "-f", "raw", "-F", "raw", image, r.uri())
			got, err := os.ReadFile(back)
			if err != nil || string(got) != string(content) {
				t.Errorf("what came back is different (%d bytes, %v)", len(got), err)
			}
			var st syscall.Stat_t
			if err := syscall.Stat(back, &st); err != nil || st.Blocks*512 > 10<<20 {
				t.Errorf("6 MiB of data take %d bytes, %v: the holes were not seen", st.Blocks*512, err)
			}
		})
	}
}

func TestQemuIO(t *testing.T) {
	r := newRig(t, newDisk(8<<20))
	nbdtest.MustRun(t, 0, "qemu-io", "-f", "raw", "-c", "write -P 0x5a 0 3M", "-c", "write -z 1M 64k", "-c", "discard 2M 64k",
		"-c", "write -f -P 0x11 1024 512", "-c", "flush", "-c", "read -P 0x5a 0 1024", "-c", "read -P 0x11 1024 512",
		"-c", "read -P 0 1M 64k", "-c", "read -P 0x5a 1088k 900k", "-c", "aio_write -P 7 4M 2M", "-c", "aio_flush", "-c", "read -P 7 4M 2M", r.uri())
}

func TestFioVerifies(t *testing.T) {
	for _, args := range [][]string{
		{"--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned", "--iodepth=32", "--size=16m", "--verify=crc32c"},
		{"--rw=randrw", "--bs=4k", "--iodepth=64", "--size=16m", "--verify=crc32c", "--numjobs=2", "--offset_increment=16m"},
	} {
		r := newRig(t, newDisk(32<<20))
		if res := nbdtest.Fio(t, 0, r.uri(), args...); res.Errors != 0 || res.WriteIOs == 0 {
			t.Errorf("%v: %+v", args, res)
		}
	}
}

// Without descriptors clients are turned away with a clear line in the log,
// and the listener goes on when there are some again.
func TestNoDescriptorsLeft(t *testing.T) {
	r := newRig(t, newDisk(4096))
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	client, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	// No descriptor beyond those that are open now.
	probe, err := sys.OpenSpare()
	if err != nil {
		t.Fatal(err)
	}
	_ = sys.Close(probe)
	limit := was
	limit.Cur = uint64(probe)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	restored := false
	restore := func() {
		if !restored {
			restored = true
			if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
				t.Error(err)
			}
		}
	}
	defer restore()
	if err := syscall.Connect(client, &syscall.SockaddrUnix{Name: r.path}); err != nil {
		t.Fatal(err)
	}
	r.logged("no file descriptors left")
	n, err := syscall.Read(client, make([]byte, 1))
	if n != 0 {
		t.Errorf("read %d, %v; want the end", n, err)
	}
	turns, _ := r.l.w.r.Load()
	time.Sleep(20 * time.Millisecond)
	if now, _ := r.l.w.r.Load(); now-turns > 50 {
		t.Errorf("%d turns in 20 ms: the listener spins", now-turns)
	}
	restore()
	_ = syscall.Close(client)
	if _, err := r.connect(nbdtest.Options{}).Read(0, 512, 0); err != nil {
		t.Error(err)
	}
}
