package sdktest

import (
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
)

// Harness is a plugin under test and a server for it.
type Harness struct {
	Manifest manifest.Manifest
	Values   map[string]string // the volume's options
	// Open gives a new instance. The suite closes it.
	Open func(TB) Instance
	// Other, if set, gives a new instance of another build of the plugin, for
	// instance of the version before or in another runtime. Connections are
	// handed over to and fro between the two.
	Other func(TB) Instance
	// Dial gives a new connection to the server. All connections of one test
	// see the same disk; its content at the start does not matter. Without a
	// server only the cases that need none are run.
	Dial func(TB) Server
}

// open makes an executor that has logged in.
func (h *Harness) open(t TB, o Options) *Executor {
	t.Helper()
	x := h.start(t, o)
	x.Open()
	h.loggedIn(t, x)
	return x
}

func (h *Harness) start(t TB, o Options) *Executor {
	t.Helper()
	return h.startWith(t, h.Dial(t), o)
}

// startWith makes an executor over a connection of the caller's choice. Both
// ends are closed when the test is over, if the executor has not been ended.
func (h *Harness) startWith(t TB, server Server, o Options) *Executor {
	t.Helper()
	o.Manifest, o.Values = h.Manifest, h.Values
	x := NewExecutor(t, h.Open(t), server, o)
	t.Cleanup(x.end)
	return x
}

func (h *Harness) loggedIn(t TB, x *Executor) {
	t.Helper()
	check(t, x)
	if x.Limits == nil {
		t.Fatalf("login did not come to an end")
	}
}

// check fails the test over what the plugin did wrong.
func check(t TB, x *Executor) {
	t.Helper()
	for _, v := range x.Violations {
		t.Errorf("the plugin broke the contract: %s", v)
	}
	if x.Failed != nil {
		t.Errorf("the plugin failed the connection (scope %d, %v): %s", x.Failed.Scope, x.Failed.Status, x.Failed.Text)
	}
	if t.Failed() {
		t.FailNow()
	}
}

func checkManifest(t TB, m manifest.Manifest) { checkNames(t, m.Name, m.Version, m.Options) }

// checkNames checks what the manifests of all kinds have in common.
func checkNames(t TB, name, version string, options []manifest.Option) {
	t.Helper()
	checkName(t, "the name", name)
	if version == "" {
		t.Error("the manifest has no version")
	}
	seen := map[string]bool{}
	for _, o := range options {
		checkName(t, "the name of an option", o.Name)
		if o.Help == "" || seen[o.Name] {
			t.Errorf("option %q has no help, or is there twice", o.Name)
		}
		seen[o.Name] = true
	}
}

func checkName(t TB, what, name string) {
	t.Helper()
	if len(name) == 0 || len(name) > 64 {
		t.Errorf("%s, %q, is not 1 to 64 bytes long", what, name)
	}
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			t.Errorf("%s, %q, has a character other than letters, digits, '.', '_' and '-'", what, name)
		}
	}
}

func (h *Harness) login(t TB, cut Cut) {
	for seed := range uint64(4) {
		x := h.open(t, Options{Cut: cut, Seed: seed})
		if x.Outstanding() != 0 || x.Closing {
			t.Fatalf("after login %d requests are outstanding, closing is %v", x.Outstanding(), x.Closing)
		}
		x.end() // a server may admit one client at a time
	}
}

// operations tries each operation that the limits promise with each set of
// flags that it may have.
func (h *Harness) operations(t TB) {
	x := h.open(t, Options{})
	l := x.Limits
	n := min(uint64(l.PreferredBlock)*4, l.Size)
	for _, p := range promised(l.Caps) {
		r := &Request{Op: p.op, Mods: p.mods, Length: n, Data: pattern(n, 1)}
		if p.op == block.OpFlush {
			r.Length, r.Data = 0, nil
		}
		x.Do(r)
		check(t, x)
		slowZero := p.mods&block.FastZero != 0 && r.Status == block.ENOTSUP
		if r.Status != block.OK && !slowZero {
			t.Errorf("%v with flags %#x: %v", p.op, p.mods, r.Status)
		}
	}
}

type operation struct {
	op   block.Op
	mods block.Flags
}

// promised lists the operations that capabilities allow.
func promised(caps block.Caps) []operation {
	ops := []operation{{block.OpRead, 0}}
	add := func(need block.Caps, op block.Op, mods block.Flags) {
		if caps&need == need && !(op.Modifies() && caps&block.CapReadOnly != 0) {
			ops = append(ops, operation{op, mods})
		}
	}
	add(0, block.OpWrite, 0)
	add(block.CapFUA, block.OpWrite, block.FUA)
	add(block.CapFlush, block.OpFlush, 0)
	add(block.CapDiscard, block.OpDiscard, 0)
	add(block.CapDiscard|block.CapFUA, block.OpDiscard, block.FUA)
	for _, noHole := range []block.Flags{0, block.NoHole} {
		add(block.CapWriteZeroes, block.OpWriteZeroes, noHole)
		add(block.CapWriteZeroes|block.CapFUA, block.OpWriteZeroes, noHole|block.FUA)
		add(block.CapFastZero, block.OpWriteZeroes, noHole|block.FastZero)
	}
	add(block.CapBlockStatus, block.OpBlockStatus, 0)
	add(block.CapBlockStatus, block.OpBlockStatus, block.OneExtent)
	add(block.CapCache, block.OpCache, 0)
	return ops
}

// transfers writes and reads the smallest and the largest piece, and some of
// uneven sizes between.
func (h *Harness) transfers(t TB) {
	x := h.open(t, Options{Cut: Random, Seed: 7})
	l := x.Limits
	if l.Has(block.CapReadOnly) {
		t.Skip("the disk is read-only")
	}
	most := min(l.Size, 4<<20)
	if l.MaxTransfer != 0 {
		most = min(most, uint64(l.MaxTransfer))
	}
	b := uint64(l.BlockSize)
	for i, n := range []uint64{b, 3 * b, most / 2 / b * b, most / b * b} {
		w := &Request{Op: block.OpWrite, Length: n, Data: pattern(n, byte(i))}
		r := &Request{Op: block.OpRead, Length: n}
		x.Do(w)
		x.Do(r)
		check(t, x)
		if w.Status != block.OK || r.Status != block.OK || string(r.Data) != string(w.Data) {
			t.Fatalf("%d bytes: write %v, read %v, same data %v", n, w.Status, r.Status, string(r.Data) == string(w.Data))
		}
	}
}

// pattern makes n bytes that no other offset or seed has.
func pattern(n uint64, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8)*31 ^ seed*17 ^ 0xa5
	}
	return b
}

// crowd offers as many requests at once as go into one call, again and again,
// so that the actions of a call do not fit its output buffer.
func (h *Harness) crowd(t TB) {
	x := h.open(t, Options{Depth: 4096})
	n := uint64(x.Limits.BlockSize)
	var all []*Request
	for i := range 3000 {
		r := &Request{Op: block.OpRead, Length: n, Offset: uint64(i) * n % (x.Limits.Size / n * n)}
		if i%2 == 0 && !x.Limits.Has(block.CapReadOnly) {
			r.Op, r.Data = block.OpWrite, pattern(n, byte(i))
		}
		all = append(all, r)
	}
	x.Do(all...)
	check(t, x)
	for i, r := range all {
		if r.Status != block.OK {
			t.Fatalf("request %d of the crowd: %v", i, r.Status)
		}
	}
}

// abort asks for requests back at once, and later: each must come to exactly
// one end.
func (h *Harness) abort(t TB) {
	x := h.open(t, Options{Cut: Random, Seed: 3})
	n := uint64(x.Limits.BlockSize)
	for round := range 20 {
		var all []*Request
		for i := range 8 {
			all = append(all, &Request{Op: block.OpRead, Length: n, Offset: uint64(i) * n % (x.Limits.Size / n * n)})
		}
		x.Submit(all...)
		for i, r := range all {
			if (i+round)%3 == 0 && !r.Done && x.reqs[r.tag] == r {
				x.Abort(r)
			}
		}
		x.Wait(all...)
		check(t, x)
	}
}

func (h *Harness) unknown(t TB) {
	x := h.open(t, Options{})
	x.Idle()
	x.Unknown()
	n := uint64(x.Limits.BlockSize)
	r := &Request{Op: block.OpRead, Length: n}
	x.Do(r)
	check(t, x)
	if r.Status != block.OK {
		t.Fatalf("a read after an unknown event: %v", r.Status)
	}
}

// longer hands in request records with fields of a later version at their end.
func (h *Harness) longer(t TB) {
	x := h.open(t, Options{})
	n := uint64(x.Limits.BlockSize)
	var all []*Request
	for i := range uint64(4) {
		r := &Request{Op: block.OpRead, Length: n, Data: make([]byte, n), filled: make([]bool, n), tag: 1000 + i}
		put(&x.ev, abi.EvRequest, abi.Request{Tag: r.tag, Op: r.Op, Length: n}, []byte("field of a later version"))
		x.reqs[r.tag] = r
		x.called = append(x.called, r)
		all = append(all, r)
	}
	x.call()
	x.Wait(all...)
	check(t, x)
	for _, r := range all {
		if r.Status != block.OK {
			t.Fatalf("a read in a longer record: %v", r.Status)
		}
	}
}

// goodbye takes leave at once after the login, as the trial of a new version
// does, however the connection came to be.
func (h *Harness) goodbye(t TB) {
	for _, begins := range []uint16{abi.SessionFirst, abi.SessionReconnect, abi.SessionSecond} {
		x := h.open(t, Options{Begins: begins})
		x.Goodbye()
		check(t, x)
		if !x.Closing {
			t.Fatal("goodbye did not end with Close")
		}
		x.Closed(abi.ClosedLocal)
		check(t, x)
		x.end()
	}
}

// closedEarly ends the connection at every point of the login.
func (h *Harness) closedEarly(t TB) {
	for at := range 64 {
		x := h.start(t, Options{Cut: Single})
		steps := 0
		x.openUntil(func() bool { steps++; return steps > at*4 || x.Limits != nil })
		check(t, x)
		x.Closed(abi.ClosedEOF)
		check(t, x)
		x.end()
		if x.Limits != nil {
			return
		}
	}
}

// second opens a data connection, with the session data of the control one.
func (h *Harness) second(t TB) {
	x := h.open(t, Options{})
	if x.Limits.MaxConns < 2 {
		t.Skip("the limits allow one connection")
	}
	var y *Executor
	x.o.Deliver = func(to uint32, data []byte) {
		if to == 1 && y != nil {
			y.Message(0, data)
		}
	}
	y = h.start(t, Options{Conn: 1, Session: x.Published, Deliver: func(to uint32, data []byte) {
		if to == 0 {
			x.Message(1, data)
		}
	}})
	y.Open()
	h.loggedIn(t, y)
	if y.Limits.Size != x.Limits.Size || y.Limits.Identity != x.Limits.Identity || y.Limits.BlockSize != x.Limits.BlockSize {
		t.Fatalf("the second connection sees another disk: %+v, the first %+v", y.Limits, x.Limits)
	}
	readOne(t, y)
	if y.Limits.Handover {
		y = h.takeOver(t, y, 0)
		readOne(t, y)
	}
}

// readOne reads a block, which must succeed.
func readOne(t TB, x *Executor) {
	t.Helper()
	r := &Request{Op: block.OpRead, Length: uint64(x.Limits.BlockSize)}
	x.Do(r)
	check(t, x)
	if r.Status != block.OK {
		t.Fatalf("a read on connection %d: %v", x.o.Conn, r.Status)
	}
}
