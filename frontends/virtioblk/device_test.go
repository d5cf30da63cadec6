package virtioblk

import (
	"encoding/hex"
	"strings"
	"testing"

	"blockengine/sdk/block"
)

var disk = block.Info{
	Size: 1 << 30, BlockSize: 512, PreferredBlock: 4096,
	Caps: block.CapFlush | block.CapFUA | block.CapDiscard | block.CapWriteZeroes,
}

func newDevice(t testing.TB, o Options) *Device {
	t.Helper()
	if o.Queues == 0 {
		o.Queues = 2
	}
	d, err := NewDevice(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The bytes were written down by hand from virtio 1.2, 5.2.4.
func TestConfigBytes(t *testing.T) {
	c := Config{
		Capacity: 0x0102030405060708, SizeMax: 0x11121314, SegMax: 0x21222324, BlkSize: 0x31323334,
		PhysicalBlockExp: 0x41, MinIOSize: 0x5152, OptIOSize: 0x61626364, Writeback: 1, NumQueues: 0x7172,
		MaxDiscardSectors: 0x81828384, MaxDiscardSeg: 0x91929394, DiscardAlignment: 0xa1a2a3a4,
		MaxWriteZeroesSectors: 0xb1b2b3b4, MaxWriteZeroesSeg: 0xc1c2c3c4, WriteZeroesMayUnmap: 1,
	}
	want := "0807060504030201" + "14131211" + "24232221" + "00000000" + "34333231" + "41" + "00" + "5251" + "64636261" +
		"01" + "00" + "7271" + "84838281" + "94939291" + "a4a3a2a1" + "b4b3b2b1" + "c4c3c2c1" + "01" + "000000"
	got := c.Bytes()
	if hex.EncodeToString(got[:]) != want {
		t.Errorf("\n got %x\nwant %s", got, want)
	}
}

func TestConfigOfDisks(t *testing.T) {
	with := func(f func(*block.Info)) *block.Info {
		i := disk
		f(&i)
		return &i
	}
	for name, c := range map[string]struct {
		o        Options
		info     *block.Info
		want     func(*Config)
		features uint64 // that a 512 byte disk has and this has not, or the other way round
	}{
		"plain":      {Options{}, &disk, func(*Config) {}, 0},
		"four":       {Options{Queues: 4}, &disk, func(c *Config) { c.NumQueues = 4 }, 0},
		"bytes":      {Options{}, with(func(i *block.Info) { i.BlockSize, i.Size = 1, 1<<30+511 }), func(*Config) {}, 0},
		"4k":         {Options{}, with(func(i *block.Info) { i.BlockSize = 4096 }), func(c *Config) { c.BlkSize, c.PhysicalBlockExp, c.MinIOSize = 4096, 0, 1 }, 0},
		"objects":    {Options{}, with(func(i *block.Info) { i.PreferredBlock = 4 << 20 }), func(c *Config) { c.MinIOSize, c.DiscardAlignment = 8192, 8192 }, 0},
		"far too":    {Options{}, with(func(i *block.Info) { i.PreferredBlock = 1 << 30 }), func(c *Config) { c.MinIOSize, c.DiscardAlignment = 1<<15, 1<<21 }, 0},
		"64k blocks": {Options{}, with(func(i *block.Info) { i.BlockSize, i.PreferredBlock = 64<<10, 64<<10 }), func(c *Config) { c.BlkSize, c.PhysicalBlockExp, c.MinIOSize, c.DiscardAlignment = 64<<10, 0, 1, 128 }, 0},
		"no discard": {Options{}, with(func(i *block.Info) { i.Caps &^= block.CapDiscard }), func(c *Config) { c.MaxDiscardSectors, c.MaxDiscardSeg, c.DiscardAlignment = 0, 0, 0 }, FeatureDiscard},
		"slow zeroes": {Options{}, with(func(i *block.Info) { i.MaxZeroes = 1 << 20 }),
			func(c *Config) { c.MaxWriteZeroesSectors = 32 << 20 / 512 }, 0},
		"read only": {Options{ReadOnly: true}, &disk, noChanges, FeatureRO | FeatureDiscard | FeatureWriteZeroes},
		"read only disk": {Options{}, with(func(i *block.Info) { i.Caps |= block.CapReadOnly }), noChanges,
			FeatureRO | FeatureDiscard | FeatureWriteZeroes},
	} {
		t.Run(name, func(t *testing.T) {
			want := Config{
				Capacity: 1 << 21, SizeMax: 256 << 10, SegMax: 126, BlkSize: 512, PhysicalBlockExp: 3, MinIOSize: 8,
				Writeback: 1, NumQueues: 2, MaxDiscardSectors: 1 << 21, MaxDiscardSeg: 16, DiscardAlignment: 8,
				MaxWriteZeroesSectors: 1 << 21, MaxWriteZeroesSeg: 16, WriteZeroesMayUnmap: 1,
			}
			c.want(&want)
			d := newDevice(t, c.o)
			if got := d.Config(c.info); got != want {
				t.Errorf("\n got %+v\nwant %+v", got, want)
			}
			const plain = 0x1_3000_7e46 // bits 1 2 6 9 10 11 12 13 14, 28 29, 32
			if got := d.Features(c.info); got != plain^c.features {
				t.Errorf("features %#x, want %#x", got, plain^c.features)
			}
		})
	}
}

// noChanges takes away what changes a disk.
func noChanges(c *Config) {
	c.MaxDiscardSectors, c.MaxDiscardSeg, c.DiscardAlignment = 0, 0, 0
	c.MaxWriteZeroesSectors, c.MaxWriteZeroesSeg, c.WriteZeroesMayUnmap = 0, 0, 0
}

// A request with all segments that a guest may use fits into a volume's.
func TestSegmentsFit(t *testing.T) {
	if maxSegments*maxSegment > 32<<20 || maxSegments+2 > 128 {
		t.Error("a guest may make requests that the engine refuses")
	}
}

func TestReadConfig(t *testing.T) {
	d := newDevice(t, Options{})
	c := d.Config(&disk)
	space := c.Bytes()
	padded := append(space[:], make([]byte, 300)...)
	for _, r := range [][2]int{{0, 57}, {0, 60}, {0, 256}, {8, 4}, {59, 2}, {60, 8}, {300, 4}, {0, 0}} {
		b := make([]byte, r[1])
		for i := range b {
			b[i] = 0xaa
		}
		d.ReadConfig(&disk, uint64(r[0]), b)
		if want := padded[min(r[0], 300):][:r[1]]; string(b) != string(want) {
			t.Errorf("%d bytes at %d: %x, want %x", r[1], r[0], b, want)
		}
	}
	d.ReadConfig(&disk, 1<<64-1, make([]byte, 4))
}

func TestCacheMode(t *testing.T) {
	const all = FeatureFlush | FeatureConfigWCE
	for _, c := range []struct {
		name     string
		features uint64
		wce      string // written into the configuration space
		fua      bool
		shown    byte
	}{
		{"as it is", all, "", false, 1},
		{"write through", all, "\x00", true, 0},
		{"write back", all, "\x01", false, 1},
		{"no choice", FeatureFlush, "", false, 1},
		{"no flush", 0, "", true, 1},
		{"no flush but a choice", FeatureConfigWCE, "\x01", false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDevice(t, Options{})
			if err := d.Accept(c.features | FeatureVersion1); err != nil {
				t.Fatal(err)
			}
			if c.wce != "" {
				if err := d.WriteConfig(32, []byte(c.wce), false); err != nil {
					t.Fatal(err)
				}
			}
			if got := d.Rules(&disk).FUA; got != c.fua {
				t.Errorf("write through %v, want %v", got, c.fua)
			}
			if got := d.Config(&disk).Writeback; got != c.shown {
				t.Errorf("shown %d, want %d", got, c.shown)
			}
			d.Reset()
			if d.Accepted() != 0 || d.Config(&disk).Writeback != 1 {
				t.Error("a reset did not forget it")
			}
		})
	}
}

func TestWriteConfig(t *testing.T) {
	d := newDevice(t, Options{})
	for _, c := range []struct {
		offset  uint64
		bytes   string
		restore bool
		ok      bool
		wce     byte // then
	}{
		{32, "\x00", false, true, 0},
		{0, "\x01", false, false, 0},
		{32, "\x01\x01", false, false, 0},
		{31, "\x01\x01", false, false, 0},
		{32, "", false, false, 0},
		{1 << 63, "\x01", false, false, 0},
		{31, "\x00\x01", true, true, 1},
		{0, strings.Repeat("\x00", 60), true, true, 0},
		{33, "\x01", true, true, 0},
		{1<<64 - 1, "\x01\x01", true, true, 0},
		{32, "\x07", false, true, 1},
	} {
		err := d.WriteConfig(c.offset, []byte(c.bytes), c.restore)
		if (err == nil) != c.ok || d.Config(&disk).Writeback != c.wce {
			t.Errorf("%q at %d: %v, cache mode %d, want %v, %d", c.bytes, c.offset, err, d.Config(&disk).Writeback, c.ok, c.wce)
		}
	}
}

func TestAccept(t *testing.T) {
	d := newDevice(t, Options{ReadOnly: true})
	if err := d.Accept(FeatureVersion1 | 1<<26); err == nil || !strings.Contains(err.Error(), "0x4000000") {
		t.Errorf("a feature that nobody knows: %v", err)
	}
	if d.Accepted() != 0 {
		t.Error("half of it was taken")
	}
	// The disk was writable when the driver saw it.
	if err := d.Accept(FeatureVersion1 | FeatureDiscard); err != nil {
		t.Error(err)
	}
	if r := d.Rules(&disk); r.Discard || r.WriteZeroes {
		t.Error("a read-only disk is changed")
	}
	w := newDevice(t, Options{})
	if err := w.Accept(FeatureVersion1 | FeatureDiscard); err != nil {
		t.Fatal(err)
	}
	poor := disk
	poor.Caps &^= block.CapDiscard
	if r := w.Rules(&poor); !r.Discard || r.MaxDiscardSectors == 0 {
		t.Error("a driver that knows of discards has them refused, because the plugin has changed")
	}
}

func TestNewDeviceRefuses(t *testing.T) {
	for want, o := range map[string]Options{
		"0 queues":         {},
		"65536 queues":     {Queues: 65536},
		"serial number \"": {Queues: 1, Serial: "123456789012345678901"},
	} {
		if _, err := NewDevice(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
