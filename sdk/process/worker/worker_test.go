package worker

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	"blockengine/sdk/process/ring"
	"blockengine/sdk/protocol"
	"blockengine/sdk/store"
)

// patience is the time after which a test that waits has failed.
const patience = 20 * time.Second

// engine is the engine's end, by hand.
type engine struct {
	t *testing.T
	*ring.Region
	mem    []byte
	files  Files
	bells  *os.File // what the worker writes to the bell
	seen   uint32
	layout ring.Layout
}

func newEngine(t *testing.T, l ring.Layout, err error) *engine {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "region")
	if err := os.WriteFile(path, make([]byte, l.Size()), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &engine{t: t, layout: l}
	if e.files.Memory, err = syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if e.mem, err = syscall.Mmap(e.files.Memory, 0, l.Size(), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(e.mem) })
	var pipe [2]int
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	e.bells, e.files.Bell = os.NewFile(uintptr(pipe[0]), "bell"), pipe[1]
	t.Cleanup(func() { _ = e.bells.Close() })
	if e.Region, err = ring.Format(l, e.mem); err != nil {
		t.Fatal(err)
	}
	return e
}

func storeEngine(t *testing.T) *engine {
	l, err := ring.StoreLayout(8, 65536)
	return newEngine(t, l, err)
}

// submit publishes a request and wakes the worker.
func (e *engine) submit(s ring.Submission) {
	tail := e.SubTail.Load()
	e.Submissions[tail%uint32(len(e.Submissions))] = s
	e.SubTail.Swap(tail + 1)
	e.wake()
}

// wake wakes the worker if it sleeps, or is about to.
func (e *engine) wake() {
	if e.SubArmed.Swap(ring.Looking) != ring.Looking {
		futexWake(&e.SubArmed)
	}
}

// completion waits for the next completion, by being rung for.
func (e *engine) completion() ring.Completion {
	e.t.Helper()
	if err := e.bells.SetReadDeadline(time.Now().Add(patience)); err != nil {
		e.t.Fatal(err)
	}
	for {
		e.CompArmed.Swap(ring.WakeEvent)
		if e.CompTail.Load() != e.seen {
			break
		}
		var b [8]byte
		if _, err := e.bells.Read(b[:]); err != nil {
			e.t.Fatalf("waited in vain for a completion: %v", err)
		}
	}
	c := e.Completions[e.seen%uint32(len(e.Completions))].Load()
	e.seen++
	return c
}

// closed tells whether a descriptor is no more.
func closed(fd int) bool {
	var st syscall.Stat_t
	return errors.Is(syscall.Fstat(fd, &st), syscall.EBADF)
}

// keeper is a disk that keeps its requests until the test hands them back.
type keeper struct {
	done   store.Completer
	got    chan *block.Request
	closed chan struct{}
	fail   error
}

func newKeeper() *keeper {
	return &keeper{got: make(chan *block.Request, 64), closed: make(chan struct{})}
}

func (k *keeper) Info() block.Info { return block.Info{Size: 1 << 20, BlockSize: 1} }
func (k *keeper) Close() error     { return nil }

func (k *keeper) Channel(done store.Completer) (store.Channel, error) {
	k.done = done
	return keeperChannel{k}, k.fail
}

type keeperChannel struct{ *keeper }

func (c keeperChannel) Submit(batch []*block.Request) {
	for _, r := range batch {
		c.got <- r
	}
}

func (c keeperChannel) Close() { close(c.closed) }

func (k *keeper) take(t *testing.T) *block.Request {
	t.Helper()
	select {
	case r := <-k.got:
		return r
	case <-time.After(patience):
		t.Fatal("waited in vain for a request")
		return nil
	}
}

func start(t *testing.T, e *engine, k *keeper) *Worker {
	t.Helper()
	w, err := Channel(k, e.files, e.layout, Options{Spin: 10 * time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// The fields of a request, its payload and its result go to and fro.
func TestRequests(t *testing.T) {
	e, k := storeEngine(t), newKeeper()
	w := start(t, e, k)
	for i, s := range []ring.Submission{
		{Slot: 0, Op: uint8(block.OpRead), Offset: 1 << 40, Length: 65536},
		{Slot: 7, Op: uint8(block.OpWrite), Flags: uint16(block.FUA), Offset: 3, Length: 1},
		{Slot: 3, Op: uint8(block.OpFlush)},
		{Slot: 3, Op: uint8(block.OpWriteZeroes), Flags: uint16(block.NoHole), Length: 1 << 50},
	} {
		e.submit(s)
		r := k.take(t)
		if r.Op != block.Op(s.Op) || r.Flags != block.Flags(s.Flags) || r.Offset != s.Offset || r.Length != s.Length || r.Status != 0 || r.Filled != 0 || r.Extents != nil {
			t.Errorf("%+v came as %+v", s, r)
		}
		if r.Op.HasPayload() {
			r.Data[0][len(r.Data[0])-1] = 42
			if b := e.Buffer(int(s.Slot)); len(r.Data) != 1 || uint64(len(r.Data[0])) != s.Length || b[s.Length-1] != 42 {
				t.Errorf("the payload of %+v lies elsewhere", s)
			}
		} else if r.Data != nil {
			t.Errorf("%v has payload", r.Op)
		}
		r.Status, r.Filled = block.Status(i), uint64(i)
		k.done.Post([]*block.Request{r})
		if c := e.completion(); c != (ring.Completion{Slot: s.Slot, Status: uint32(i), Filled: uint64(i)}) {
			t.Errorf("%+v ended as %+v", s, c)
		}
		if e.SubHead.Load() != uint32(i+1) {
			t.Errorf("%d of %d are taken", e.SubHead.Load(), i+1)
		}
	}
	w.Close()
}

// Extents lie in the slot's buffer, also those of a plugin that made its own slice.
func TestExtents(t *testing.T) {
	e, k := storeEngine(t), newKeeper()
	w := start(t, e, k)
	want := []ring.Extent{{Length: 4096, State: 1}, {Length: 8192, State: 2}}
	for _, own := range []bool{false, true} {
		e.submit(ring.Submission{Slot: 2, Op: uint8(block.OpBlockStatus), Length: 12288})
		r := k.take(t)
		if cap(r.Extents) != 4096 {
			t.Errorf("there is room for %d extents", cap(r.Extents))
		}
		if own {
			r.Extents = nil
		}
		r.Extents = append(r.Extents, block.Extent{Length: 4096, State: 1}, block.Extent{Length: 8192, State: 2})
		k.done.Post([]*block.Request{r})
		if c := e.completion(); c.Extents != 2 || e.Extents(2)[0] != want[0] || e.Extents(2)[1] != want[1] {
			t.Errorf("own slice %v: %+v, %+v", own, c, e.Extents(2)[:2])
		}
		clear(e.Buffer(2))
	}
	w.Close()
}

// Close waits for what is outstanding, and hands nothing new to the plugin.
func TestCloseWaits(t *testing.T) {
	e, k := storeEngine(t), newKeeper()
	w := start(t, e, k)
	e.submit(ring.Submission{Slot: 1, Op: uint8(block.OpFlush)})
	r := k.take(t)
	ended := make(chan struct{})
	go func() { w.Close(); close(ended) }()
	for !w.closing.Load() {
		time.Sleep(time.Millisecond)
	}
	e.submit(ring.Submission{Slot: 2, Op: uint8(block.OpFlush)})
	time.Sleep(5 * time.Millisecond)
	select {
	case <-ended:
		t.Error("it did not wait")
	case <-k.closed:
		t.Error("the channel is closed and a request is outstanding")
	case <-k.got:
		t.Error("a request came after Close")
	default:
	}
	k.done.Post([]*block.Request{r})
	for _, c := range []chan struct{}{ended, k.closed} {
		select {
		case <-c:
		case <-time.After(patience):
			t.Fatal("it does not end")
		}
	}
	if e.completion().Slot != 1 || e.CompTail.Load() != 1 {
		t.Error("the request's end was not told")
	}
	if !closed(e.files.Memory) || !closed(e.files.Bell) {
		t.Error("descriptors are left open")
	}
}

// What a plugin does wrong ends the process with a text that says what it was.
func TestMisuse(t *testing.T) {
	e, k := storeEngine(t), newKeeper()
	start(t, e, k)
	e.submit(ring.Submission{Slot: 1, Op: uint8(block.OpFlush)})
	r := k.take(t)
	clone := *r
	k.done.Post(nil)
	for want, batch := range map[string][]*block.Request{
		"it was not given": {{Op: block.OpFlush}},
		"Owner as it was":  {&clone},
		"twice: flush":     {r, r},
	} {
		func() {
			defer func() {
				if p, _ := recover().(string); !strings.Contains(p, want) {
					t.Errorf("panic %q, wanted %q", p, want)
				}
			}()
			k.done.Post(batch)
		}()
	}
	if e.CompTail.Load() != 0 {
		t.Error("it was published")
	}
	// The worker is left as it is: with a plugin like this its process has ended.
}

// A region that does not fit is refused, and its descriptors are closed.
func TestRefused(t *testing.T) {
	broken := errors.New("no such disk")
	machine, err := ring.MachineLayout(65536, 65536)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		f    func(e *engine, k *keeper)
		want string
	}{
		{"kind", func(e *engine, _ *keeper) { e.layout = machine }, "of kind 2 came for a disk"},
		{"size", func(e *engine, _ *keeper) { e.layout.Depth = 16 }, "its layout"},
		{"layout", func(e *engine, _ *keeper) { e.layout.Depth = 3 }, "3 slots"},
		{"header", func(e *engine, _ *keeper) { e.Magic = 0 }, "header says"},
		{"memory", func(e *engine, _ *keeper) { _ = syscall.Close(e.files.Memory); e.files.Memory = 1 << 20 }, "size: bad file descriptor"},
		{"channel", func(_ *engine, k *keeper) { k.fail = broken }, "open a channel: no such disk"},
	} {
		e, k := storeEngine(t), newKeeper()
		c.f(e, k)
		if _, err := Channel(k, e.files, e.layout, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, wanted %q", c.name, err, c.want)
		}
		if !closed(e.files.Memory) || !closed(e.files.Bell) {
			t.Errorf("%s: descriptors are left open", c.name)
		}
	}
	e := storeEngine(t)
	if _, err := Machine(plugin{}, e.files, e.layout, Options{}); err == nil || !strings.Contains(err.Error(), "of kind 1 came for a connection") {
		t.Errorf("a store's region for a machine: %v", err)
	}
	if _, err := FilesOf([]int{1}); err == nil {
		t.Error("one descriptor is enough")
	}
}

// plugin says Ready(7) to whatever comes.
type plugin struct{}

func (plugin) Manifest() manifest.Manifest { return manifest.Manifest{} }
func (plugin) NewConn() protocol.Conn      { return conn{} }

type conn struct{ protocol.Base }

func (conn) Opened(*protocol.Actions, *protocol.Opened) {}
func (conn) Received(*protocol.Actions, []byte) int     { return 0 }

func (conn) Submit(a *protocol.Actions, batch []protocol.Request) int {
	a.Ready(7)
	return len(batch)
}

// answer asks to be woken, and tells whether call n+1 has still to be answered.
func (e *engine) answer(n uint32) bool {
	e.CompArmed.Swap(ring.WakeFutex)
	return e.CompTail.Load() == n
}

// A wake that was meant for an earlier call comes at any time, also between the
// worker's last look and its sleep. The next one must not get lost for it.
func TestWakesAtTheWrongTime(t *testing.T) {
	l, err := ring.MachineLayout(65536, 65536)
	e := newEngine(t, l, err)
	w, err := Machine(plugin{}, e.files, l, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var over atomic.Bool
	var strays sync.WaitGroup
	t.Cleanup(func() {
		over.Store(true)
		strays.Wait()
	})
	strays.Go(func() {
		for !over.Load() {
			e.wake()
		}
	})
	e.In[0], e.In[4], e.In[16] = abi.EvRequest, 40, 2
	for n, end := uint32(1), time.Now().Add(time.Second); time.Now().Before(end); n++ {
		e.CallIn.Store(40)
		e.SubTail.Swap(n)
		e.wake()
		for late := time.Now().Add(patience); e.CompTail.Load() != n; runtime.Gosched() {
			if time.Now().After(late) {
				t.Fatalf("call %d was never taken: %d", n, e.SubHead.Load())
			}
		}
	}
	over.Store(true)
	strays.Wait()
	w.Close()
}

// A machine answers a call with what Machine.Call gives.
func TestMachine(t *testing.T) {
	l, err := ring.MachineLayout(65536, 65536)
	e := newEngine(t, l, err)
	w, err := Machine(plugin{}, e.files, l, Options{})
	if err != nil {
		t.Fatal(err)
	}
	e.In[0], e.In[4], e.In[16] = abi.EvRequest, 40, 2
	for n := uint32(1); n < 100; n++ {
		e.CallIn.Store(40)
		e.SubTail.Swap(n)
		e.wake()
		for e.answer(n - 1) {
			futexWait(&e.CompArmed, ring.WakeFutex)
		}
		if out := e.CallOut.Load(); out != 16 || e.Out[0] != abi.ActReady || e.Out[8] != 7 {
			t.Fatalf("call %d: %d bytes, % x", n, out, e.Out[:16])
		}
	}
	w.Close()
}
