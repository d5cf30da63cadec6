package vhostuser

import (
	"context"
	"errors"
	"testing"

	"blockengine/internal/vhosttest"
	"blockengine/sdk/block"
)

// A disk that grows is shown to the guest.
func TestResize(t *testing.T) {
	r := newRig(t)
	f := r.open()
	before := f.Sectors()
	info := r.disk.info
	info.Size *= 2
	r.disk.mu.Lock()
	r.disk.data = append(r.disk.data, make([]byte, len(r.disk.data))...)
	r.disk.mu.Unlock()
	r.volume.SetInfo(info)
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	r.check(f.ConfigChanged(ctx))
	if _, err := f.Refresh(); err != nil || f.Sectors() != 2*before {
		t.Errorf("%d sectors became %d, %v", before, f.Sectors(), err)
	}
	d := r.driver(f, 0)
	r.check(d.Write(2*before-1, pattern(512, 1)))
}

// A guest that turns the cache off has its writes durable when they complete.
func TestWriteThrough(t *testing.T) {
	r := newRig(t)
	f := r.open()
	d := r.driver(f, 0)
	for i, want := range []block.Flags{0, block.FUA, 0} {
		if i > 0 {
			r.check(f.WriteConfig(32, []byte{byte(i - 1)}))
		}
		r.disk.requests()
		r.check(d.Write(0, pattern(512, 1)))
		if seen := r.disk.requests(); len(seen) != 1 || seen[0].Flags != want {
			t.Errorf("step %d: %v", i, seen)
		}
	}
	if err := f.WriteConfig(0, []byte{1}); err == nil {
		t.Error("the capacity was written")
	}
	r.check(d.Flush()) // what was refused and answered ends nothing
}

func TestReadOnly(t *testing.T) {
	r := newRig(t, func(r *rig) { r.export.ReadOnly = true })
	f := r.open()
	if f.Offered()&vhosttest.FRO == 0 {
		t.Error("it does not say so")
	}
	d := r.driver(f, 0)
	if err := d.Write(0, pattern(512, 1)); !errors.Is(err, vhosttest.ErrIO) {
		t.Errorf("a write: %v", err)
	}
	_, err := d.Read(0, 512)
	r.check(err)
}

// An error of the disk's is the request's, and nobody else's.
func TestDiskErrors(t *testing.T) {
	r := newRig(t)
	f := r.open()
	d := r.driver(f, 0)
	r.disk.mu.Lock()
	r.disk.fail = block.ENOSPC
	r.disk.mu.Unlock()
	if err := d.Write(0, pattern(512, 1)); !errors.Is(err, vhosttest.ErrIO) {
		t.Errorf("a write: %v", err)
	}
	r.disk.mu.Lock()
	r.disk.fail = block.OK
	r.disk.mu.Unlock()
	r.check(d.Write(0, pattern(512, 1)))
	if st := r.stats(); st.Requests.Ops[block.OpWrite].Errors != 1 {
		t.Errorf("%+v", st.Requests.Ops[block.OpWrite])
	}
}
