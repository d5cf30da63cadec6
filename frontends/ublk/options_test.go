package ublk

import (
	"errors"
	"strings"
	"testing"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

func TestOptions(t *testing.T) {
	r, err := reactor.New(reactor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rs := []*reactor.Reactor{r}
	v := volume.New(volume.Options{Name: "v", Reactors: rs})
	good := Options{Name: "x", Volume: v, ID: AnyID, StateDir: t.TempDir(), Reactors: rs}
	if _, err := good.withDefaults(); !errors.Is(err, volume.ErrNotOpen) {
		t.Errorf("a volume that has not been seen: %v", err)
	}
	if err := v.Attach(&fakeDisk{}, block.Info{Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	o, err := good.withDefaults()
	if err != nil || o.Queues != 1 || o.Depth != DefaultDepth || o.MaxIO != DefaultMaxIO || o.Timeout == 0 || o.Log == nil {
		t.Errorf("%+v, %v", o, err)
	}
	for want, spoil := range map[string]func(*Options){
		"0 bytes":         func(o *Options) { o.Name = "" },
		"129 bytes":       func(o *Options) { o.Name = strings.Repeat("x", 129) },
		"no volume":       func(o *Options) { o.Volume = nil },
		"no reactor":      func(o *Options) { o.Reactors = nil },
		"state directory": func(o *Options) { o.StateDir = "" },
		"number -2":       func(o *Options) { o.ID = -2 },
		"257 queues":      func(o *Options) { o.Queues = 257 },
		"-1 queues":       func(o *Options) { o.Queues = -1 },
		"depth of 4097":   func(o *Options) { o.Depth = 4097 },
		"5000 bytes":      func(o *Options) { o.MaxIO = 5000 },
		"33554432 bytes":  func(o *Options) { o.MaxIO = 32 << 20 },
		"recovery 3":      func(o *Options) { o.Recovery = None + 1 },
		"copy 5":          func(o *Options) { o.Copy = CopyZero + 1 },
		"unprivileged":    func(o *Options) { o.Copy, o.Unprivileged, o.Recovery = CopyUser, true, None },
		"of 4096 bytes":   func(o *Options) { o.Copy, o.Buffers = CopyUser, 4096 },
		"need more than":  func(o *Options) { o.Copy, o.Buffers = CopyUser, 1<<40 },
	} {
		o := good
		spoil(&o)
		if _, err := o.withDefaults(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// What is asked of the kernel for each way of recovery, and what it must have.
func TestFeatures(t *testing.T) {
	const linux612 = 0x1fe
	for _, c := range []struct {
		o      Options
		kernel uint64
		want   uint64
		err    string
	}{
		{Options{Recovery: Reissue}, linux612, flagIoctlEncode | flagRecovery | flagReissue, ""},
		{Options{Recovery: None}, linux612, flagIoctlEncode, ""},
		{Options{Recovery: FailIO}, linux612, 0, "6.13"},
		{Options{Recovery: FailIO}, linux612 | flagFailIO, flagIoctlEncode | flagRecovery | flagFailIO, ""},
		{Options{Recovery: Reissue}, 0, flagIoctlEncode | flagRecovery | flagReissue, ""},
		{Options{Recovery: Reissue}, flagUserCopy, 0, "USER_RECOVERY"},
		{Options{Recovery: Reissue, Unprivileged: true}, linux612, 0, "unprivileged"},
		{Options{Recovery: None, Unprivileged: true}, linux612, flagIoctlEncode | flagUnprivileged, ""},
		{Options{Recovery: None, Copy: CopyUser}, linux612, flagIoctlEncode | flagUserCopy, ""},
		{Options{Recovery: None, Copy: CopyGetData}, linux612, flagIoctlEncode | flagNeedGetData, ""},
		{Options{Recovery: None, Copy: CopyKernel}, linux612, flagIoctlEncode, ""},
		{Options{Recovery: None, Copy: CopyUser}, linux612 &^ flagUserCopy, 0, "6.5"},
		{Options{Recovery: None, Copy: CopyZero}, linux612 | flagZeroCopy, 0, "6.16"},
		{Options{Recovery: None, Copy: CopyZero}, linux612 | flagZeroCopy | flagAutoBufReg,
			flagIoctlEncode | flagUserCopy | flagZeroCopy | flagAutoBufReg, ""},
		{Options{Recovery: Reissue}, linux612 | flagQuiesce, flagIoctlEncode | flagRecovery | flagReissue | flagQuiesce, ""},
		{Options{Recovery: None}, linux612 | flagQuiesce, flagIoctlEncode, ""},
	} {
		d := &Device{o: c.o, ctl: &control{features: c.kernel}}
		got, err := d.features()
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%+v: %#x, %v", c, got, err)
		}
	}
}
