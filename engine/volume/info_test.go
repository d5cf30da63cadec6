package volume_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"blockengine/engine/reactor"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

func TestInfoThatMakesNoSense(t *testing.T) {
	for text, info := range map[string]block.Info{
		"block size is 513":         {Size: mib, BlockSize: 513},
		"block size is 131072":      {Size: mib, BlockSize: 128 << 10},
		"which no disk has":         {Size: 1<<62 + 1, BlockSize: 512},
		"takes 511 bytes at most":   {Size: mib, BlockSize: 512, MaxTransfer: 511},
		`volume "v": the device`:    {Size: mib, BlockSize: 3},
		"less than its block size ": {Size: mib, BlockSize: 4096, MaxTransfer: 512},
	} {
		v := volume.New(volume.Options{Name: "v", Log: quiet})
		err := v.Attach(newFake(t, block.Info{}, nil), info)
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v, want it to say %q", info, err, text)
		}
		if _, ok := v.Info(); ok {
			t.Errorf("%+v: refused, and there it is", info)
		}
		if s, _ := v.State(); s != volume.Opening {
			t.Errorf("%+v: refused, and the volume is %v", info, s)
		}
	}
}

func TestInfoIsRoundedToBlocks(t *testing.T) {
	v := volume.New(volume.Options{Name: "v", Log: quiet})
	all := block.Info{Size: mib + 4095, BlockSize: 4096, PreferredBlock: 5000, MaxTransfer: 9000, MaxZeroes: 4095, MaxDiscard: 8191, Caps: allCaps}
	if err := v.Attach(newFake(t, block.Info{}, nil), all); err != nil {
		t.Fatal(err)
	}
	got, _ := v.DeviceInfo()
	// MaxZeroes is below one block: rounded down it would mean "no limit".
	want := block.Info{Size: mib, BlockSize: 4096, PreferredBlock: 4096, MaxTransfer: 8192, MaxDiscard: 4096,
		Caps: allCaps &^ (block.CapWriteZeroes | block.CapFastZero)}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	v.SetInfo(block.Info{Size: mib, Caps: block.CapDiscard, MaxDiscard: 1})
	if got, _ := v.DeviceInfo(); got.BlockSize != 1 || got.PreferredBlock != 4096 || !got.Has(block.CapDiscard) {
		t.Errorf("no block size: %+v", got)
	}
	v.SetInfo(block.Info{Size: mib, BlockSize: 512, Caps: block.CapDiscard, MaxDiscard: 511})
	if got, _ := v.DeviceInfo(); got.Has(block.CapDiscard) {
		t.Errorf("it can discard less than a block, and yet: %+v", got)
	}
}

func TestInfoAsFrontendsSeeIt(t *testing.T) {
	v := volume.New(volume.Options{Name: "v", Log: quiet, ReadOnly: true})
	if _, ok := v.Info(); ok {
		t.Error("there is an info before there is a disk")
	}
	if v.Home() != nil || v.Name() != "v" {
		t.Error("a home before there is a disk, or another name")
	}
	if err := v.Attach(newFake(t, block.Info{}, nil), block.Info{Size: mib, BlockSize: 512, Caps: block.CapFlush}); err != nil {
		t.Fatal(err)
	}
	got, ok := v.Info()
	want := block.CapFlush | block.CapFUA | block.CapWriteZeroes | block.CapBlockStatus | block.CapCache |
		block.CapFlushCoversAll | block.CapReadOnly
	if !ok || got.Caps != want || got.MaxTransfer != volume.MaxTransfer {
		t.Errorf("%+v, want caps %b", got, want)
	}
	v.SetInfo(block.Info{Size: mib, BlockSize: 512, MaxTransfer: 1 << 30})
	if got, _ := v.Info(); got.Has(block.CapFUA) || got.MaxTransfer != volume.MaxTransfer {
		t.Errorf("%+v", got)
	}
}

// News that make no sense stop the volume; the disk is as it was seen last.
func TestNewsThatMakeNoSense(t *testing.T) {
	v := volume.New(volume.Options{Name: "v", Log: quiet})
	good := block.Info{Size: mib, BlockSize: 512}
	if err := v.Attach(newFake(t, block.Info{}, nil), good); err != nil {
		t.Fatal(err)
	}
	v.SetInfo(block.Info{Size: mib, BlockSize: 500})
	if s, why := v.State(); s != volume.Stopped || !strings.Contains(why, "block size is 500") {
		t.Errorf("%v: %s", s, why)
	}
	if i, _ := v.Info(); i.BlockSize != 512 {
		t.Errorf("the info is now %+v", i)
	}
}

func TestWatch(t *testing.T) {
	v := volume.New(volume.Options{Name: "v", Log: quiet})
	var seen []volume.State
	stop := v.Watch(func(v *volume.Volume) { s, _ := v.State(); seen = append(seen, s) })
	steps := []struct {
		do   func()
		told bool
		want volume.State
	}{
		{func() { v.SetState(volume.Opening, "refused") }, false, volume.Opening},
		{func() { _ = v.Attach(newFake(t, block.Info{}, nil), block.Info{Size: mib}) }, true, volume.Online},
		{func() { v.SetState(volume.Away, "gone") }, true, volume.Away},
		{func() { v.SetState(volume.Away, "still gone") }, false, volume.Away},
		{func() { v.SetInfo(block.Info{Size: 2 * mib}) }, true, volume.Away},
		{func() { v.SetState(volume.Online, "") }, true, volume.Online},
		{func() { v.SetState(volume.Stopped, "told so") }, true, volume.Stopped},
		{func() { v.SetState(volume.Online, "") }, false, volume.Stopped}, // final
	}
	for i, s := range steps {
		seen = nil
		s.do()
		if told := len(seen) > 0; told != s.told {
			t.Errorf("step %d: told %v", i, seen)
		}
		if got, _ := v.State(); got != s.want || s.told && seen[len(seen)-1] != s.want {
			t.Errorf("step %d: the state is %v, told %v, want %v", i, got, seen, s.want)
		}
	}
	if _, why := v.State(); why != "told so" {
		t.Errorf("the reason is %q", why)
	}
	stop()
	seen = nil
	v.SetInfo(block.Info{Size: 3 * mib})
	if len(seen) > 0 {
		t.Error("told after it asked not to be")
	}
}

func TestOpenThatFails(t *testing.T) {
	rs := newReactors(t, 2)
	v := volume.New(volume.Options{Name: "v", Reactors: rs, Log: quiet})
	open := func(i int) (err error) {
		rs[i].Do(func() { _, err = v.Open(rs[i], nil, volume.QueueOptions{}) })
		return err
	}
	if err := open(0); !errors.Is(err, volume.ErrNotOpen) {
		t.Errorf("before there is a disk: %v", err)
	}
	f := newFake(t, block.Info{}, rand.New(rand.NewPCG(1, 1)))
	f.home, f.openErr = rs[1], errors.New("no memory")
	if err := v.Attach(f, block.Info{Size: mib}); err != nil {
		t.Fatal(err)
	}
	if err := open(0); !errors.Is(err, volume.ErrWrongReactor) || v.Home() != rs[1] {
		t.Errorf("away from home: %v", err)
	}
	if err := open(1); err == nil || !errors.Is(err, f.openErr) || !strings.Contains(err.Error(), `"v"`) {
		t.Errorf("a channel that cannot be opened: %v", err)
	}
	f.openErr = nil
	if err := open(1); err != nil {
		t.Errorf("tried again: %v", err)
	}
}

var _ volume.Device = (*fake)(nil)
var _ reactor.Mail = (*channel)(nil)
