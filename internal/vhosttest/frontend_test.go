package vhosttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// orders of messages, as the monitors send them to a back-end that offers all,
// with one queue: at power-on, in full, and after the back-end was lost.
var orders = map[string][2]string{
	"qemu": {`GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM GET_MAX_MEM_SLOTS SET_BACKEND_REQ_FD
		SET_OWNER GET_FEATURES SET_VRING_CALL SET_VRING_ERR GET_CONFIG
		SET_FEATURES GET_INFLIGHT_FD SET_INFLIGHT_FD SET_FEATURES GET_STATUS SET_STATUS
		ADD_MEM_REG ADD_MEM_REG ADD_MEM_REG ADD_MEM_REG SET_VRING_NUM SET_VRING_BASE SET_VRING_ADDR SET_VRING_KICK
		SET_VRING_ENABLE GET_STATUS SET_STATUS SET_VRING_CALL
		SET_VRING_ENABLE GET_VRING_BASE SET_STATUS
		SET_FEATURES GET_INFLIGHT_FD SET_INFLIGHT_FD SET_FEATURES GET_STATUS SET_STATUS
		SET_VRING_NUM SET_VRING_BASE SET_VRING_ADDR SET_VRING_KICK
		SET_VRING_ENABLE GET_STATUS SET_STATUS SET_VRING_CALL`,
		`GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM GET_MAX_MEM_SLOTS SET_BACKEND_REQ_FD
		SET_OWNER GET_FEATURES SET_VRING_CALL SET_VRING_ERR
		SET_FEATURES SET_INFLIGHT_FD SET_FEATURES GET_STATUS SET_STATUS
		ADD_MEM_REG ADD_MEM_REG ADD_MEM_REG ADD_MEM_REG SET_VRING_NUM SET_VRING_BASE SET_VRING_ADDR SET_VRING_KICK
		SET_VRING_ENABLE GET_STATUS SET_STATUS SET_VRING_CALL`},
	"cloud-hypervisor": {`SET_OWNER GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM GET_CONFIG
		SET_FEATURES SET_MEM_TABLE SET_VRING_NUM GET_INFLIGHT_FD SET_INFLIGHT_FD
		SET_VRING_ADDR SET_VRING_BASE SET_VRING_CALL SET_VRING_KICK SET_VRING_ENABLE`,
		`SET_OWNER GET_FEATURES SET_PROTOCOL_FEATURES
		SET_FEATURES SET_MEM_TABLE SET_VRING_NUM SET_INFLIGHT_FD
		SET_VRING_ADDR SET_VRING_BASE SET_VRING_CALL SET_VRING_KICK SET_VRING_ENABLE`},
	"crosvm": {`SET_OWNER GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES SET_BACKEND_REQ_FD GET_QUEUE_NUM
		GET_CONFIG GET_CONFIG GET_CONFIG GET_CONFIG GET_CONFIG GET_CONFIG GET_CONFIG GET_CONFIG
		SET_FEATURES SET_MEM_TABLE SET_VRING_NUM SET_VRING_ADDR SET_VRING_BASE SET_VRING_CALL SET_VRING_KICK SET_VRING_ENABLE`, ""},
	"firecracker": {`SET_OWNER GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_CONFIG
		SET_FEATURES SET_MEM_TABLE SET_VRING_NUM SET_VRING_ADDR SET_VRING_BASE SET_VRING_CALL SET_VRING_KICK SET_VRING_ENABLE`, ""},
	"spdk": {`SET_OWNER GET_FEATURES SET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_CONFIG
		SET_VRING_ENABLE GET_QUEUE_NUM SET_VRING_CALL SET_MEM_TABLE GET_FEATURES
		SET_VRING_NUM SET_VRING_BASE SET_VRING_ADDR SET_VRING_KICK`, ""},
}

func TestOrders(t *testing.T) {
	for _, p := range Personalities() {
		t.Run(p.Name, func(t *testing.T) {
			d := newDevice(t)
			d.listen()
			f := open(t, Options{Socket: d.socket, Personality: p})
			must(t, f.Driver(0).Write(0, make([]byte, SectorSize))) // all that was sent has arrived
			wantOrder(t, d.requests(), orders[p.Name][0])
			if orders[p.Name][1] == "" {
				return
			}
			n := len(d.requests())
			d.hangup()
			<-f.Lost()
			must(t, f.Redial(testContext(t)))
			last := f.Driver(0)
			last.Ring.Kick()
			must(t, last.Flush())
			wantOrder(t, d.requests()[n:], orders[p.Name][1])
			if d.inflight[len(d.inflight)-1].Size != 4096 {
				t.Error("the in-flight region was not kept")
			}
		})
	}
}

func wantOrder(t *testing.T, got []Request, want string) {
	t.Helper()
	var names []string
	for _, r := range got {
		names = append(names, r.String())
	}
	if w := strings.Fields(want); !slices.Equal(names, w) {
		t.Errorf("messages\n%q, want\n%q", names, w)
	}
}

// TestBaseAfterLoss: QEMU goes on from the used index, Cloud Hypervisor from the
// available one.
func TestBaseAfterLoss(t *testing.T) {
	for _, c := range []struct {
		p    *Personality
		want uint32
	}{{QEMU(), 1}, {CloudHypervisor(), 3}} {
		t.Run(c.p.Name, func(t *testing.T) {
			d := newDevice(t)
			d.listen()
			f := open(t, Options{Socket: d.socket, Personality: c.p})
			driver := f.Driver(0)
			must(t, driver.Write(0, make([]byte, SectorSize)))
			d.hangup()
			<-f.Lost()
			// The device ends its rings before it accepts again.
			must(t, waitUntil(func() bool { return !d.busy() }))
			must(t, driver.Submit(&IO{Op: OpFlush}, &IO{Op: OpFlush}))
			must(t, f.Redial(testContext(t)))
			d.mu.Lock()
			defer d.mu.Unlock()
			if got := d.bases[len(d.bases)-1]; got != c.want {
				t.Errorf("SET_VRING_BASE %d, want %d", got, c.want)
			}
		})
	}
}

// busy says whether a connection is being served.
func (d *device) busy() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sock != nil && !d.idle
}

func waitUntil(ok func() bool) error {
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("it does not happen")
		}
	}
	return nil
}

// TestJudge: what a device must not do is found, by the driver and by the load.
func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(head uint16, written uint32) []usedElem
		mute  bool
		want  string
	}{
		{"twice", func(h uint16, n uint32) []usedElem { return []usedElem{{uint32(h), n}, {uint32(h), n}} }, false, "chains outstanding"},
		{"another", func(h uint16, n uint32) []usedElem { return []usedElem{{uint32(h+1) % 128, n}} }, false, "does not have"},
		{"outside", func(h uint16, n uint32) []usedElem { return []usedElem{{uint32(h) + 1<<16, n}} }, false, "does not have"},
		{"too much", func(h uint16, n uint32) []usedElem { return []usedElem{{uint32(h), n + 1}} }, false, "bytes written"},
		{"too little", func(h uint16, n uint32) []usedElem { return []usedElem{{uint32(h), n - 1}} }, false, "written"},
		{"no status", nil, true, "without a status"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDevice(t)
			d.listen()
			p := QEMU()
			p.FirmwareFirst = false
			o := Options{Socket: d.socket, Personality: p, QueueSize: 128, Redial: time.Millisecond}
			d.spoil, d.mute = c.spoil, c.mute
			f := open(t, o)
			driver := f.Driver(0)
			if _, err := driver.Read(0, SectorSize); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("driver: %v, want an error with %q", err, c.want)
			}
			f.Close()
			r, err := Run(testContext(t), LoadOptions{Options: o, Depth: 1, ReadPercent: 100, Run: 5 * time.Millisecond, Timeout: 5 * time.Second})
			if found := fmt.Sprint(err, r.Bad()); !strings.Contains(found, c.want) {
				t.Errorf("load: %s, want an error with %q", found, c.want)
			}
		})
	}
}

// TestLossUnderLoad: the device finishes in order and holds nothing over the end
// of a connection, so the used index is all that the next one needs; with the
// available index requests are forgotten, and that is found.
func TestLossUnderLoad(t *testing.T) {
	for _, c := range []struct {
		name string
		p    *Personality
		lost bool
	}{{"used index", QEMU(), false}, {"available index", CloudHypervisor(), true}} {
		t.Run(c.name, func(t *testing.T) {
			d := newDevice(t)
			d.listen()
			l, err := StartLoad(testContext(t), LoadOptions{Options: Options{Socket: d.socket, Personality: c.p, Queues: 2, Redial: time.Millisecond},
				Depth: 16, ReadPercent: 50, Verify: true, Reconnect: true, Run: time.Minute, Timeout: 2 * time.Second})
			must(t, err)
			for range 10 {
				before := l.Progress().Completed
				ended := waitUntil(func() bool {
					select {
					case <-l.Done():
						return true
					default:
						return l.Progress().Completed > before+200
					}
				})
				must(t, ended)
				d.hangup()
			}
			r, err := l.Stop()
			if c.lost {
				if !errors.Is(err, ErrHung) || r.Hung == 0 || r.Bad() == nil {
					t.Fatalf("%d requests hung, %v", r.Hung, err)
				}
				return
			}
			must(t, err)
			must(t, r.Bad())
			if len(r.Outages) < 9 { // the last may not have been noticed
				t.Errorf("%d outages, want 10", len(r.Outages))
			}
		})
	}
}

// TestPlug: memory that came later can be used like any other.
func TestPlug(t *testing.T) {
	for _, p := range []*Personality{QEMU(), Crosvm()} {
		t.Run(p.Name, func(t *testing.T) {
			q := startQSD(t, "driver=null-co,read-zeroes=on,size=1048576", "")
			f := open(t, Options{Socket: q.socket, Personality: p})
			must(t, f.Plug(Slot{Guest: 8 << 30, Size: mib, Gap: 4096}))
			d := f.Driver(0)
			defer d.Close()
			a, err := newArea(f.mem, len(f.mem.regions)-1, pageSize)
			must(t, err)
			if a.head.Addr < 8<<30 {
				t.Fatalf("the new region is not used: %#x", a.head.Addr)
			}
			a.encode(OpIn, 0, pageSize)
			a.payload(pageSize)[9] = 9
			io, err := d.Raw([]Desc{{a.head.Addr, headerLen, DescNext, 1}, {a.body.Addr, pageSize + 1, DescWrite, 0}}, false)
			must(t, err)
			must(t, d.Submit())
			must(t, d.Wait(io))
			if *a.status(pageSize) != StatusOK || a.payload(pageSize)[9] != 0 {
				t.Errorf("a read into it: status %d", *a.status(pageSize))
			}
		})
	}
}

// TestMissedCalls: a device that finishes requests and tells nobody.
func TestMissedCalls(t *testing.T) {
	d := newDevice(t)
	d.silent = true
	d.listen()
	r, err := Run(testContext(t), LoadOptions{Options: Options{Socket: d.socket}, Depth: 2, ReadPercent: 100, Run: time.Millisecond})
	must(t, err)
	if r.MissedCalls == 0 || r.Bad() == nil {
		t.Fatalf("%+v", r)
	}
}

// TestResize: the back-end says that the configuration has changed.
func TestResize(t *testing.T) {
	d := newDevice(t)
	d.listen()
	f := open(t, Options{Socket: d.socket})
	d.resize(7)
	must(t, f.ConfigChanged(testContext(t)))
	if c, err := f.Refresh(); err != nil || c.Capacity != 7 {
		t.Fatalf("capacity %d, %v", c.Capacity, err)
	}
}

// TestListen: the back-end is the one that connects.
func TestListen(t *testing.T) {
	d := newDevice(t)
	f, err := Make(Options{Socket: d.socket, Listen: true})
	must(t, err)
	defer f.Close()
	d.connect()
	must(t, f.Connect(testContext(t)))
	must(t, f.boot())
	must(t, f.Driver(0).Flush())
	d.hangup()
	<-f.Lost()
	d.connect()
	must(t, f.Redial(testContext(t)))
	driver := f.Driver(0)
	driver.Ring.Kick()
	must(t, driver.Flush())
}

// TestOpenEnds: nobody is there.
func TestOpenEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for _, listen := range []bool{false, true} {
		_, err := Open(ctx, Options{Socket: t.TempDir() + "/s", Listen: listen, Redial: time.Millisecond})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("listen %v: %v", listen, err)
		}
	}
}

// TestNoAllocation: the load's own work costs no memory for a request.
func TestNoAllocation(t *testing.T) {
	d := newDevice(t)
	d.listen()
	f := open(t, Options{Socket: d.socket})
	must(t, f.Stop())
	o := LoadOptions{Frontend: f, Depth: 16, ReadPercent: 50, Verify: true, Poll: true, Run: time.Minute, Length: mib}
	must(t, o.complete())
	w, err := newWorker(&Load{o: o, f: f}, 0, 0, 256)
	must(t, err)
	w.runs = 1 << 62
	// The device's part, for a ring that it does not serve any more.
	r := w.ring
	answer := func() {
		used := r.UsedIdx()
		for i := used; i != r.published; i++ {
			head := r.avail[i&(r.size-1)]
			s := &w.slots[w.byHead[head]]
			*s.area.status(w.size) = StatusOK
			n := uint32(1)
			if s.op == OpIn {
				n += uint32(w.size)
				w.pattern.stamp(s.area.payload(w.size), w.sector(s.block), s.lo)
			}
			r.used[i&(r.size-1)] = usedElem{uint32(head), n}
		}
		*r.usedWord = uint32(r.published) << 16
	}
	allocs := testing.AllocsPerRun(500, func() {
		w.issue(1)
		answer()
		n, err := r.Reap(w.done[:])
		if n != 16 || err != nil {
			t.Fatal(n, err)
		}
		w.take(w.done[:n], 2)
	})
	if allocs != 0 || w.counts.mismatched != 0 {
		t.Errorf("%v allocations for 16 requests, %d mismatches: %q", allocs, w.counts.mismatched, w.counts.examples)
	}
}
