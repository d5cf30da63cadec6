package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"blockengine/engine/volume"
	"blockengine/internal/nbdtest"
	"blockengine/sdk/block"
)

func refusedWith(t *testing.T, err error, reply uint32) {
	t.Helper()
	var refused *nbdtest.OptionError
	if !errors.As(err, &refused) || refused.Reply != reply {
		t.Errorf("got %v, want option reply %#x", err, reply)
	}
}

func TestListAndInfo(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	r.add(Export{Name: "opening", Volume: volume.New(volume.Options{Name: "o", Reactors: r.reactors, Log: discard()})})
	r.add(Export{Name: "ro", Volume: r.volume, ReadOnly: true})
	c := r.greeted()
	list, err := c.List()
	want := []nbdtest.ListedExport{{Name: "disk", Description: "a disk"}, {Name: "ro"}}
	if err != nil || fmt.Sprint(list) != fmt.Sprint(want) {
		t.Errorf("list %v, %v; want %v", list, err, want)
	}
	info, err := c.QueryInfo("disk", nbdtest.InfoName, nbdtest.InfoDescription, nbdtest.InfoBlockSize, 99)
	if err != nil || info.Size != 1<<20 || info.Name != "disk" || info.Description != "a disk" || *info.BlockSize != (nbdtest.BlockSize{Min: 1, Preferred: 4096, MaxPayload: 32 << 20}) {
		t.Errorf("info %+v, %v", info, err)
	}
	all := nbdtest.FlagHasFlags | nbdtest.FlagSendFlush | nbdtest.FlagSendFUA | nbdtest.FlagSendTrim | nbdtest.FlagSendWriteZeroes |
		nbdtest.FlagMultiConn | nbdtest.FlagSendCache | nbdtest.FlagSendFastZero
	if info.Flags != all {
		t.Errorf("flags %#x, want %#x", info.Flags, all)
	}
	if info, err = c.QueryInfo("ro"); err != nil || info.Flags&nbdtest.FlagReadOnly == 0 || info.Flags&nbdtest.FlagSendTrim != 0 || info.BlockSize != nil {
		t.Errorf("read-only: %+v, %v", info, err)
	}
	_, err = c.QueryInfo("nonesuch")
	refusedWith(t, err, nbdtest.RepErrUnknown)
	_, err = c.QueryInfo("")
	refusedWith(t, err, nbdtest.RepErrUnknown)
	err = c.Go("opening")
	refusedWith(t, err, nbdtest.RepErrUnknown)
	if !strings.Contains(err.Error(), "not ready yet") {
		t.Errorf("a client is not told to try again: %v", err)
	}
	if err := c.Go("disk"); err != nil {
		t.Fatal(err)
	}
	if b, err := c.Read(0, 512, 0); err != nil || len(b) != 512 {
		t.Error(err)
	}
}

func TestDefaultExport(t *testing.T) {
	r := newRig(t, newDisk(4096))
	c := r.greeted()
	if info, err := c.QueryInfo("", nbdtest.InfoName); err != nil || info.Name != "disk" {
		t.Errorf("the only export as default: %+v, %v", info, err)
	}
	r.add(Export{Name: "", Volume: r.volume, Description: "default"})
	if info, err := c.QueryInfo("", nbdtest.InfoDescription); err != nil || info.Description != "default" {
		t.Errorf("the export without a name: %+v, %v", info, err)
	}
}

func TestExportName(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	for _, o := range []nbdtest.Options{{ExportName: true}, {ExportName: true, WithZeroes: true}, {ExportName: true, Structured: true}} {
		c := r.connect(o)
		if c.Info.Size != 1<<20 {
			t.Errorf("%+v: size %d", o, c.Info.Size)
		}
		if err := c.Write(4096, pattern(4096, 1), 0); err != nil {
			t.Error(err)
		}
		if b, err := c.Read(4096, 4096, 0); err != nil || !bytes.Equal(b, pattern(4096, 1)) {
			t.Errorf("%+v: %v", o, err)
		}
		if err := c.Disconnect(); err != nil {
			t.Error(err)
		}
	}
	c := r.greeted()
	if err := c.UseExportName("nonesuch"); err == nil {
		t.Error("an unknown export was entered")
	}
	r.logged("unknown export")
}

func TestOptionErrors(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	c := r.greeted()
	ask := func(opt uint32, data []byte, want uint32) {
		t.Helper()
		_, err := c.Option(opt, data)
		refusedWith(t, err, want)
	}
	ask(nbdtest.OptStartTLS, nil, nbdtest.RepErrUnsup)
	ask(nbdtest.OptPeekExport, nil, nbdtest.RepErrUnsup)
	ask(4711, make([]byte, 100<<10), nbdtest.RepErrUnsup)
	ask(nbdtest.OptList, []byte{1}, nbdtest.RepErrInvalid)
	ask(nbdtest.OptStructuredReply, make([]byte, 20000), nbdtest.RepErrInvalid)
	ask(nbdtest.OptExtendedHeaders, []byte{1}, nbdtest.RepErrInvalid)
	ask(nbdtest.OptGo, nil, nbdtest.RepErrInvalid)
	ask(nbdtest.OptGo, []byte{0xff, 0xff, 0xff, 0xff, 0, 0}, nbdtest.RepErrInvalid)
	ask(nbdtest.OptInfo, append(nbdtest.EncodeInfo("disk", 1), 0), nbdtest.RepErrInvalid)
	ask(nbdtest.OptInfo, make([]byte, 9000), nbdtest.RepErrTooBig)
	ask(nbdtest.OptSetMetaContext, nbdtest.EncodeMeta("disk", "base:allocation"), nbdtest.RepErrInvalid)
	if err := c.AskStructuredReply(); err != nil {
		t.Error(err)
	}
	ask(nbdtest.OptSetMetaContext, nbdtest.EncodeMeta("nonesuch", "base:allocation"), nbdtest.RepErrUnknown)
	ask(nbdtest.OptSetMetaContext, []byte{0, 0, 0, 0, 0, 0, 0, 9}, nbdtest.RepErrInvalid)
	ask(nbdtest.OptSetMetaContext, append(nbdtest.EncodeMeta("disk", "base:allocation"), 0), nbdtest.RepErrInvalid)
	if err := c.AskExtendedHeaders(); err != nil {
		t.Error(err)
	}
	ask(nbdtest.OptStructuredReply, nil, nbdtest.RepErrExtHeaderReqd)
	if err := c.Abort(); err != nil {
		t.Error(err)
	}
}

func TestMetaContexts(t *testing.T) {
	r := newRig(t, newDisk(1<<20))
	r.add(Export{Name: "other", Volume: r.volume})
	count := func(c *nbdtest.Client, opt uint32, export string, queries ...string) int {
		t.Helper()
		reps, err := c.Option(opt, nbdtest.EncodeMeta(export, queries...))
		if err != nil {
			t.Fatal(err)
		}
		return len(reps)
	}
	c := r.greeted()
	if err := c.AskStructuredReply(); err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct {
		opt     uint32
		queries []string
		want    int
	}{
		{nbdtest.OptListMetaContext, nil, 1},
		{nbdtest.OptListMetaContext, []string{"base:"}, 1},
		{nbdtest.OptListMetaContext, []string{"qemu:x"}, 0},
		{nbdtest.OptListMetaContext, []string{"qemu:x", "base:allocation"}, 1},
		{nbdtest.OptSetMetaContext, nil, 0},
		{nbdtest.OptSetMetaContext, []string{"base:"}, 0},
		{nbdtest.OptSetMetaContext, []string{"base:other", "x:y"}, 0},
		{nbdtest.OptSetMetaContext, []string{"x:y", "base:allocation", "base:allocation"}, 1},
	} {
		if got := count(c, q.opt, "disk", q.queries...); got != q.want {
			t.Errorf("option %d %q: %d contexts, want %d", q.opt, q.queries, got, q.want)
		}
	}
	// Selected for "disk", but another export is entered.
	if err := c.Go("other"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Do(nbdtest.Request{Op: nbdtest.CmdBlockStatus, Length: 4096}); !errors.Is(err, nbdtest.Errno(nbdtest.EINVAL)) {
		t.Errorf("block status without a context for this export: %v", err)
	}
}

func TestLongList(t *testing.T) {
	r := newRig(t, newDisk(4096))
	for i := range 500 {
		r.add(Export{Name: fmt.Sprintf("%03d-%s", i, strings.Repeat("n", 500)), Description: strings.Repeat("d", 1000), Volume: r.volume})
	}
	list, err := r.greeted().List()
	if err != nil || len(list) != 501 {
		t.Fatalf("%d exports, %v; want 501", len(list), err)
	}
}

func TestHandshakeViolations(t *testing.T) {
	option := func(magic uint64, opt, length uint32) []byte {
		b := binary.BigEndian.AppendUint64(nil, magic)
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, opt), length)
	}
	for name, c := range map[string]struct {
		bytes []byte
		log   string
	}{
		"unknown client flags": {[]byte{0, 0, 0, 7}, "client flags"},
		"garbage":              {[]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), "client flags"},
		"wrong option magic":   {append([]byte{0, 0, 0, 3}, option(1, 1, 0)...), "option magic"},
		"4 GiB option":         {append([]byte{0, 0, 0, 3}, option(magicOption, 99, 0xffffffff)...), "bytes of data"},
		"long export name":     {append([]byte{0, 0, 0, 3}, option(magicOption, optExportName, 4097)...), "export name of"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, newDisk(4096))
			k := r.raw()
			if _, err := k.ReadRaw(greetingSize); err != nil {
				t.Fatal(err)
			}
			if err := k.WriteRaw(c.bytes); err != nil {
				t.Fatal(err)
			}
			if err := k.ExpectClosed(); err != nil {
				t.Error(err)
			}
			r.logged(c.log)
			if got := r.s.Stats().Listeners[0].HandshakeFailures; got != 1 {
				t.Errorf("%d handshake failures counted", got)
			}
		})
	}
}

// Every split of the client's bytes must lead to the same end.
func TestHandshakeByteByByte(t *testing.T) {
	r := newRig(t, newDisk(8192))
	c := r.raw()
	b := []byte{0, 0, 0, 3}
	b = append(b, nbdtest.EncodeOption(77, []byte("ignored"))...)
	b = append(b, nbdtest.EncodeOption(optGo, nbdtest.EncodeInfo("disk"))...)
	b = append(b, nbdtest.EncodeRequest(false, 0, nbdtest.CmdRead, 5, 0, 16, nil)...)
	for i := range b {
		if err := c.WriteRaw(b[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	unsup := optionReplySize + len("this server does not know the option")
	if _, err := c.ReadRaw(greetingSize + unsup + optionReplySize + 12 + optionReplySize + simpleReplySize + 16); err != nil {
		t.Fatal(err)
	}
}

func TestHandshakeTimeout(t *testing.T) {
	r := newRig(t, newDisk(4096), func(o *Options) { o.HandshakeTimeout = 300 * time.Millisecond })
	c := r.raw()
	if _, err := c.ReadRaw(greetingSize); err != nil {
		t.Fatal(err)
	}
	if err := c.ExpectClosed(); err != nil {
		t.Error(err)
	}
	r.logged("too long")
	k := r.connect(nbdtest.Options{}) // who has chosen in time stays
	time.Sleep(400 * time.Millisecond)
	if _, err := k.Read(0, 16, 0); err != nil {
		t.Error(err)
	}
}

func TestFlagsFollowTheDisk(t *testing.T) {
	e := &export{}
	for _, c := range []struct {
		caps block.Caps
		f    framing
		want uint16
	}{
		{0, simple, flagHasFlags},
		{block.CapRotational, structured, flagHasFlags | flagRotational | flagSendDF},
		{block.CapFlush | block.CapFUA, simple, flagHasFlags | flagSendFlush | flagSendFUA},
		{block.CapFastZero, simple, flagHasFlags}, // nothing without write-zeroes
		{block.CapReadOnly | block.CapDiscard | block.CapWriteZeroes | block.CapFastZero, extended, flagHasFlags | flagReadOnly | flagSendDF},
	} {
		if got := e.flags(&block.Info{Caps: c.caps}, c.f); got != c.want {
			t.Errorf("caps %#x: flags %#x, want %#x", c.caps, got, c.want)
		}
	}
}
