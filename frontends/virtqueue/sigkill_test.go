//go:build linux

package virtqueue

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

const (
	childEnv  = "VIRTQUEUE_TEST_MEMORY" // file that driver and device share
	childSize = 64
	childRoom = 1 << 20 // of the file: the rig, then the in-flight region
)

// sharedRig is a rig on the file's memory, in both processes at the same place.
func sharedRig(t *testing.T, f *os.File) *rig {
	b, err := syscall.Mmap(int(f.Fd()), 0, childRoom, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(b) })
	r := newRigOn(t, childSize, true, 2, func(n int) []byte {
		if n > childRoom/2 {
			t.Fatal("the file is too small")
		}
		return b[:n:n]
	})
	r.region = b[childRoom/2:][:InflightSize(2, childSize)]
	return r
}

// TestKilledBySignal lets a real process serve, kills it with SIGKILL wherever
// it is, and starts the next, while the driver goes on: each request completes
// once and done, none is lost.
func TestKilledBySignal(t *testing.T) {
	if path := os.Getenv(childEnv); path != "" {
		serveUntilKilled(t, path)
		return
	}
	lives := 40
	if testing.Short() {
		lives = 5
	}
	f, err := os.CreateTemp(t.TempDir(), "memory")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(childRoom); err != nil {
		t.Fatal(err)
	}
	d := sharedRig(t, f).driver(rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1)), 0xfff0)
	pending := 0
	for range lives {
		d.lifeOf(f.Name(), time.Duration(d.rng.IntN(5000))*time.Microsecond)
		if len(d.live) > 0 {
			pending++
		}
	}
	t.Logf("%d requests; %d of %d lives ended with requests under way", d.seq, pending, lives)
	if pending == 0 && !testing.Short() {
		t.Error("no life was cut short")
	}
	d.lastLife(f.Name())
}

// lifeOf starts a device and drives it for a time, once it has begun to serve.
func (d *driver) lifeOf(path string, long time.Duration) {
	kill := d.startDevice(path)
	defer kill()
	var end time.Time
	was, patience := d.done, time.Now().Add(30*time.Second)
	for end.IsZero() || time.Now().Before(end) {
		d.add(1 + d.rng.IntN(16))
		d.reap()
		if end.IsZero() && d.done > was {
			end = time.Now().Add(long)
		}
		if time.Now().After(patience) {
			d.t.Fatalf("nothing moves: %v", d.due())
		}
	}
}

// lastLife lets all that is offered complete.
func (d *driver) lastLife(path string) {
	kill := d.startDevice(path)
	defer kill()
	patience := time.Now().Add(30 * time.Second)
	for len(d.live) > 0 {
		if d.reap(); time.Now().After(patience) {
			d.t.Fatalf("never completed: %v", d.due())
		}
	}
	if d.done != d.seq || d.usedIdx() != d.idx {
		d.t.Errorf("%d of %d done, used index %d of %d", d.done, d.seq, d.usedIdx(), d.idx)
	}
}

// startDevice starts the other process; the function that comes back kills it.
func (d *driver) startDevice(path string) func() {
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledBySignal$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), childEnv+"="+path)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // ends with us
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	return func() {
		_ = cmd.Process.Kill()
		err := cmd.Wait()
		stdin.Close()
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			d.t.Fatalf("the device ended by itself: %v", err)
		}
	}
}

// serveUntilKilled is the device's process. It holds some requests back, so that
// they complete out of order.
func serveUntilKilled(t *testing.T, path string) {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := sharedRig(t, f)
	c := r.tracked()
	q := r.queueOf(c)
	rng := rand.New(rand.NewPCG(uint64(os.Getpid()), 3))
	var held []completion
	chains := make([]Chain, 8)
	for {
		n, err := q.Pop(chains[:1+rng.IntN(8)])
		if err != nil {
			t.Fatal(err)
		}
		for i := range chains[:n] {
			first := make([]byte, 0, 8)
			for _, p := range chains[i].Read {
				first = append(first, p...)
			}
			held = append(held, completion{uint32(fill(&chains[i], binary.LittleEndian.Uint64(first))), chains[i].Head})
		}
		rng.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
		keep := 0
		if n > 0 {
			keep = rng.IntN(len(held))
		}
		for _, c := range held[keep:] {
			q.Push(c.head, c.written)
		}
		held = held[:keep]
		q.Publish()
	}
}
