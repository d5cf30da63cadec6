package process

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"blockengine/sdk/block"
	"blockengine/sdk/process/control"
	"blockengine/sdk/store"
)

func TestDecodeOptions(t *testing.T) {
	known := []store.Option{{Name: "path", Type: store.Path}, {Name: "size", Type: store.Size}, {Name: "n", Type: store.Int},
		{Name: "on", Type: store.Bool}, {Name: "key", Secret: true, Type: store.Size}}
	o, err := decodeOptions(known, []byte("path=/a=b\x00size=1048576\x00n=3\x00on=true\x00"))
	want := store.Options{Strings: map[string]string{"path": "/a=b"}, Sizes: map[string]uint64{"size": 1 << 20, "n": 3}, Bools: map[string]bool{"on": true}}
	if err != nil || !reflect.DeepEqual(o, want) {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []string{"other=1\x00", "size\x00", "size=1", "size=x\x00", "on=2\x00", "key=topsecret\x00"} {
		if _, err := decodeOptions(known, []byte(bad)); err == nil || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// slowStore opens its disk when it is told to.
type slowStore struct {
	begun chan struct{}
	goOn  chan error
	dev   *closing
}

type closing struct{ closed chan struct{} }

func (s *slowStore) Manifest() store.Manifest { return store.Manifest{Name: "slow", Version: "3"} }

func (s *slowStore) Open(ctx context.Context, _ store.Options) (store.Device, error) {
	s.begun <- struct{}{}
	if err := <-s.goOn; err != nil {
		return nil, err
	}
	return s.dev, nil
}

func (d *closing) Info() block.Info { return block.Info{Size: 4096, BlockSize: 512, Identity: "x"} }
func (d *closing) Channel(store.Completer) (store.Channel, error) {
	return nil, errors.New("no channels here")
}
func (d *closing) Close() error { close(d.closed); return nil }

func newSlow() *slowStore {
	return &slowStore{begun: make(chan struct{}), goOn: make(chan error), dev: &closing{make(chan struct{})}}
}

func wait(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatal(what)
	}
}

func TestDeviceThatIsClosedWhileItIsOpened(t *testing.T) {
	p := newSlow()
	s := newServer(Options{Store: p}, newInbox())
	opened := make(chan error, 1)
	go func() {
		_, err := s.OpenDevice(context.Background(), &control.OpenDevice{Device: 1})
		opened <- err
	}()
	wait(t, p.begun, "it is not opened")
	if _, err := s.OpenDevice(context.Background(), &control.OpenDevice{Device: 1}); err == nil {
		t.Error("a number is used twice")
	}
	closed := make(chan struct{})
	go func() {
		_, _ = s.CloseDevice(context.Background(), &control.CloseDevice{Device: 1})
		close(closed)
	}()
	p.goOn <- nil
	wait(t, closed, "CloseDevice does not come back")
	wait(t, p.dev.closed, "the disk is not closed")
	<-opened
}

func TestDeviceThatNobodyWaitsForIsClosed(t *testing.T) {
	p := newSlow()
	s := newServer(Options{Store: p}, newInbox())
	ctx, cancel := context.WithCancel(context.Background())
	opened := make(chan error, 1)
	go func() {
		_, err := s.OpenDevice(ctx, &control.OpenDevice{Device: 1})
		opened <- err
	}()
	wait(t, p.begun, "it is not opened")
	cancel()
	p.goOn <- nil
	if err := <-opened; err == nil {
		t.Error("a call that was given up succeeds")
	}
	wait(t, p.dev.closed, "the disk is not closed")
	if _, err := s.CloseDevice(context.Background(), &control.CloseDevice{Device: 1}); err != nil {
		t.Errorf("its CloseDevice: %v", err)
	}
}

func TestCloseEndsWhatIsOpen(t *testing.T) {
	p := newSlow()
	s := newServer(Options{Store: p}, newInbox())
	go func() { <-p.begun; p.goOn <- nil }()
	info, err := s.OpenDevice(context.Background(), &control.OpenDevice{Device: 1})
	if err != nil || info.Block().Identity != "x" {
		t.Fatalf("%+v, %v", info, err)
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.OpenChannel(over, &control.OpenChannel{Channel: 9, Device: 1}); err == nil {
		t.Error("a channel without descriptors")
	}
	if _, err := s.Close(context.Background(), nil); err != nil {
		t.Error(err)
	}
	wait(t, p.dev.closed, "the disk is not closed")
}

// sendFiles is what the engine does.
func sendFiles(t *testing.T, socket int, message []byte, fds ...int) {
	t.Helper()
	if err := syscall.Sendmsg(socket, message, syscall.UnixRights(fds...), nil, 0); err != nil {
		t.Fatal(err)
	}
}

func TestDescriptorsFindTheirChannel(t *testing.T) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(pair[1])
	in := newInbox()
	pipe := func() (r, w int) {
		var p [2]int
		if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		return p[0], p[1]
	}
	for _, early := range []bool{true, false} { // before the call, and after it
		r, w := pipe()
		got := make(chan []int, 1)
		take := func() {
			fds, err := in.take(t.Context(), 7)
			if err != nil {
				t.Error(err)
			}
			got <- fds
		}
		if !early {
			go take()
		}
		sendFiles(t, pair[0], binary.LittleEndian.AppendUint64(nil, 7), r, w)
		closeAll([]int{r, w})
		channel, fds, err := receiveFiles(pair[1])
		if err != nil || channel != 7 || len(fds) != 2 {
			t.Fatalf("channel %d, %v, %v", channel, fds, err)
		}
		in.put(channel, fds)
		if early {
			take()
		}
		fds = <-got
		f := os.NewFile(uintptr(fds[1]), "w")
		if _, err := f.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		f.Close()
		closeAll(fds[:1])
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := in.take(ctx, 8); err == nil {
		t.Error("descriptors that never came")
	}
	if _, _, err := receiveFiles(sendBad(t, pair)); err == nil {
		t.Error("a message that is too short is taken")
	}
	syscall.Close(pair[0])
	if _, _, err := receiveFiles(pair[1]); !errors.Is(err, errEngineGone) {
		t.Errorf("the end of the engine: %v", err)
	}
}

func sendBad(t *testing.T, pair [2]int) int {
	t.Helper()
	sendFiles(t, pair[0], []byte{1, 2})
	return pair[1]
}
