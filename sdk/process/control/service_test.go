package control

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"blockengine/sdk/block"
	"blockengine/sdk/process/ring"
)

// fake answers so that what went over the wire can be seen.
type fake struct{ seen any }

var fakeManifest = Manifest{Version: Version, Kind: Store, Name: "n", Release: "1", ABI: 7, FenceOnExit: true,
	Options: []Option{{Name: "o", Type: "size", Required: true, Secret: true, Help: "h"}}}

var fakeInfo = block.Info{Size: 1 << 60, BlockSize: 512, PreferredBlock: 4096, MaxTransfer: 1 << 20, MaxZeroes: 1 << 40,
	MaxDiscard: 5, Caps: block.CapFlush | block.CapFlushCoversAll, Identity: "id"}

func (f *fake) Hello(_ context.Context, m *Hello) (*Manifest, error) {
	f.seen = *m
	return &fakeManifest, nil
}

func (f *fake) OpenDevice(_ context.Context, m *OpenDevice) (*Info, error) {
	f.seen = *m
	if m.Volume == "bad" {
		return nil, errors.New("no such volume: name another")
	}
	i := InfoOf(fakeInfo)
	return &i, nil
}

func (f *fake) DeviceInfo(_ context.Context, m *DeviceInfo) (*Info, error) {
	f.seen = *m
	i := InfoOf(fakeInfo)
	return &i, nil
}

func (f *fake) WatchDevice(_ context.Context, m *WatchDevice) (*DeviceChanges, error) {
	f.seen = *m
	return &DeviceChanges{Changes: m.Seen + 1, Never: true}, nil
}

func (f *fake) CloseDevice(_ context.Context, m *CloseDevice) (*Done, error) {
	f.seen = *m
	return &Done{}, nil
}

func (f *fake) OpenChannel(_ context.Context, m *OpenChannel) (*Done, error) {
	f.seen = *m
	return &Done{}, nil
}

func (f *fake) CloseChannel(_ context.Context, m *CloseChannel) (*Done, error) {
	f.seen = *m
	return &Done{}, nil
}

func (f *fake) MapMemory(_ context.Context, m *MapMemory) (*Done, error) {
	f.seen = *m
	return &Done{}, nil
}

func (f *fake) ForgetMemory(_ context.Context, m *ForgetMemory) (*Done, error) {
	f.seen = *m
	return &Done{}, nil
}

func (f *fake) Health(context.Context, *Done) (*Done, error) { f.seen = "health"; return &Done{}, nil }
func (f *fake) Close(context.Context, *Done) (*Done, error)  { f.seen = "close"; return &Done{}, nil }

// connect gives a client of f.
func connect(t *testing.T, f *fake) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(MaxMessage))
	Register(s, f)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return NewClient(conn)
}

func TestCalls(t *testing.T) {
	f := &fake{}
	c, ctx := connect(t, f), t.Context()
	layout, err := ring.StoreLayout(128, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	open := OpenDevice{Device: 1 << 60, Volume: "v", ReadOnly: true, Options: []byte("a=\xff\x00")}
	memory := MapMemory{Memory: 5, Offset: 1 << 40, Size: 1 << 50}
	channel := OpenChannel{Channel: 3, Device: 4, Layout: layout, Poll: 5}
	for _, call := range []struct {
		name string
		do   func() error
		seen any
	}{
		{"hello", func() error {
			m, err := c.Hello(ctx, &Hello{Version: 9})
			if err == nil && !reflect.DeepEqual(*m, fakeManifest) {
				t.Errorf("the manifest is %+v", *m)
			}
			return err
		}, Hello{Version: 9}},
		{"open device", func() error {
			i, err := c.OpenDevice(ctx, &open)
			if err == nil && i.Block() != fakeInfo {
				t.Errorf("the disk is %+v", i.Block())
			}
			return err
		}, open},
		{"device info", func() error {
			i, err := c.DeviceInfo(ctx, &DeviceInfo{Device: 2, Rescan: true})
			if err == nil && i.Block() != fakeInfo {
				t.Errorf("the disk is %+v", i.Block())
			}
			return err
		}, DeviceInfo{Device: 2, Rescan: true}},
		{"watch device", func() error {
			d, err := c.WatchDevice(ctx, &WatchDevice{Device: 2, Seen: 4})
			if err == nil && *d != (DeviceChanges{Changes: 5, Never: true}) {
				t.Errorf("changes %+v", d)
			}
			return err
		}, WatchDevice{Device: 2, Seen: 4}},
		{"close device", func() error { return c.CloseDevice(ctx, &CloseDevice{Device: 2}) }, CloseDevice{Device: 2}},
		{"open channel", func() error { return c.OpenChannel(ctx, &channel) }, channel},
		{"close channel", func() error { return c.CloseChannel(ctx, &CloseChannel{Channel: 8}) }, CloseChannel{Channel: 8}},
		{"map memory", func() error { return c.MapMemory(ctx, &memory) }, memory},
		{"forget memory", func() error { return c.ForgetMemory(ctx, &ForgetMemory{Memory: 6}) }, ForgetMemory{Memory: 6}},
		{"health", func() error { return c.Health(ctx) }, "health"},
		{"close", func() error { return c.Close(ctx) }, "close"},
	} {
		if err := call.do(); err != nil || !reflect.DeepEqual(f.seen, call.seen) {
			t.Errorf("%s: %v, the other end saw %+v", call.name, err, f.seen)
		}
	}
	_, err = c.OpenDevice(ctx, &OpenDevice{Volume: "bad"})
	if s, _ := status.FromError(err); s.Message() != "no such volume: name another" {
		t.Errorf("a refusal: %v", err)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	c := connect(t, &fake{})
	_, err := c.OpenDevice(t.Context(), &OpenDevice{Options: make([]byte, MaxMessage)})
	if err == nil || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("%v", err)
	}
}
