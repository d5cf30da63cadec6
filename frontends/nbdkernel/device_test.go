package nbdkernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"blockengine/engine/reactor"
	"blockengine/engine/sys"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// kernel stands for the driver: it takes orders as bytes, keeps devices and shows
// them in a directory that looks like sysfs.
type kernel struct {
	t     *testing.T
	sysfs string

	mu      sync.Mutex // guards what follows
	refuse  syscall.Errno
	orders  []uint8
	devices map[int]string // backends
	handed  int            // sockets in all orders
}

func newKernel(t *testing.T) *kernel {
	return &kernel{t: t, sysfs: t.TempDir(), devices: map[int]string{}}
}

func (k *kernel) driver() *driver { return &driver{family: 0x1c, sysfs: k.sysfs, exchange: k.exchange} }

// exchange carries an order out as the driver does.
func (k *kernel) exchange(order []byte) ([]answer, error) {
	list, err := messages(order)
	if err != nil || len(list) != 1 {
		k.t.Errorf("an order that is no message: %v", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	cmd, a := list[0].cmd, list[0].data
	k.orders = append(k.orders, cmd)
	number, size, backend := AnyNumber, uint64(0), ""
	attributes(a, func(kind uint16, v []byte) {
		switch kind {
		case attrIndex:
			number = int(uintOf(v))
		case attrSize:
			size = uintOf(v)
		case attrBackend:
			backend = textOf(v)
		case attrSockets:
			attributes(v, func(uint16, []byte) { k.handed++ })
		}
	})
	if k.refuse != 0 {
		return nil, sys.Errno(k.refuse)
	}
	return k.carryOut(cmd, number, size, backend)
}

func (k *kernel) carryOut(cmd uint8, number int, size uint64, backend string) ([]answer, error) {
	switch cmd {
	case cmdConnect:
		if number == AnyNumber {
			number = 4
		}
		if k.devices[number] != "" {
			return nil, sys.Errno(syscall.EBUSY)
		}
		k.show(number, backend, size)
		return []answer{{cmd: cmd, data: attrUint32(nil, attrIndex, uint32(number))}}, nil
	case cmdReconfigure:
		if k.devices[number] != backend || backend == "" {
			return nil, sys.Errno(syscall.EINVAL)
		}
		if size > 0 {
			k.show(number, backend, size)
		}
	case cmdDisconnect:
		delete(k.devices, number)
		_ = os.RemoveAll(filepath.Join(k.sysfs, fmt.Sprintf("nbd%d", number)))
	}
	return nil, nil
}

func (k *kernel) show(number int, backend string, size uint64) {
	dir := filepath.Join(k.sysfs, fmt.Sprintf("nbd%d", number))
	err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "backend"), []byte(backend+"\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "size"), fmt.Appendf(nil, "%d\n", size/512), 0o600))
	if err != nil {
		k.t.Error(err)
	}
	k.devices[number] = backend
}

// count of orders of a kind, and of sockets in all of them.
func (k *kernel) count(cmd uint8) (orders, sockets int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.orders {
		if c == cmd {
			orders++
		}
	}
	return orders, k.handed
}

// disk is a device that nobody sends requests to.
type disk struct{}

func (disk) Home() *reactor.Reactor { return nil }
func (disk) OpenChannel(*reactor.Reactor, volume.Completer) (volume.Channel, error) {
	return nil, errors.New("not in this test")
}
func (disk) Close() error { return nil }

// site is a volume, a server for it, and a state directory.
type site struct {
	t      *testing.T
	kernel *kernel
	volume *volume.Volume
	o      Options
}

func info(size uint64, identity string) block.Info {
	return block.Info{Size: size, BlockSize: 512, Caps: block.CapFlush, Identity: identity}
}

func newSite(t *testing.T, size uint64) *site {
	s := &site{t: t, kernel: newKernel(t)}
	s.o = Options{Name: "disk", Number: AnyNumber, Connections: 2, Server: serve(t, size), StateDir: t.TempDir(),
		RequestTimeout: time.Second, DeadConnTimeout: time.Minute, Log: slog.New(slog.DiscardHandler)}
	s.see(info(size, "serial-1"))
	return s
}

// see gives the site a volume whose disk is so.
func (s *site) see(i block.Info) {
	s.volume = volume.New(volume.Options{Name: "v", Log: s.o.Log})
	if err := s.volume.Attach(disk{}, i); err != nil {
		s.t.Fatal(err)
	}
	s.o.Volume = s.volume
}

func (s *site) open() (*Device, error) {
	o, err := s.o.withDefaults()
	if err != nil {
		s.t.Fatal(err)
	}
	d, err := openWith(context.Background(), o, s.kernel.driver(), &news{lost: make(chan int), quit: make(chan struct{})})
	if err == nil {
		s.t.Cleanup(d.end)
	}
	return d, err
}

func (s *site) mustOpen() *Device {
	s.t.Helper()
	d, err := s.open()
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

// serve is an NBD server as far as the handshake.
func serve(t *testing.T, size uint64) string {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Write(greeting(3))
				_, _ = io.ReadFull(c, make([]byte, len(goOption("disk"))))
				_, _ = c.Write(append(option(repInfo, export(size, 1|flagCanMultiConn)), option(repAck, nil)...))
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	return path
}

func remembered(s *site) bool {
	r, err := readRecord(recordPath(s.o.StateDir, s.o.Name))
	if err != nil {
		s.t.Error(err)
	}
	return r != nil
}

// TestLife: made, left, found again, grown, removed.
func TestLife(t *testing.T) {
	s := newSite(t, 1<<20)
	d := s.mustOpen()
	if st := d.Status(); st.Path != "/dev/nbd4" || st.State != Serving || st.Recovered || st.Size != 1<<20 || !remembered(s) {
		t.Errorf("a new device: %+v", st)
	}
	d.Leave()
	d = s.mustOpen()
	if _, sockets := s.kernel.count(cmdReconfigure); !d.Status().Recovered || d.Number() != 4 || sockets != 4 {
		t.Errorf("a device that was left: %+v, %d sockets", d.Status(), sockets)
	}
	s.volume.SetInfo(info(2<<20, "serial-1"))
	wait(t, "the device to grow", func() bool { return d.Status().Size == 2<<20 })
	if err := d.Close(context.Background()); err != nil || remembered(s) || len(s.kernel.devices) != 0 {
		t.Errorf("after Close: %v, devices %v", err, s.kernel.devices)
	}
}

func wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// TestAnotherDisk: a device is not given to a volume that is not the same disk; it
// stays, and so does what is remembered of it.
func TestAnotherDisk(t *testing.T) {
	for name, tc := range map[string]struct {
		disk block.Info
		want string
	}{
		"shrunk":        {info(1<<19, "serial-1"), "has shrunk to 524288"},
		"other":         {info(1<<20, "serial-2"), `identity "serial-1"`},
		"larger blocks": {block.Info{Size: 1 << 20, BlockSize: 4096, Identity: "serial-1"}, "blocks of 512 bytes"},
	} {
		s := newSite(t, 1<<20)
		s.mustOpen().Leave()
		s.see(tc.disk)
		_, err := s.open()
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "nbd-kernel delete 4") {
			t.Errorf("%s: %v", name, err)
		}
		if n, _ := s.kernel.count(cmdReconfigure); n != 0 || len(s.kernel.devices) != 1 || !remembered(s) {
			t.Errorf("%s: %d reconfigurations, devices %v", name, n, s.kernel.devices)
		}
	}
}

// TestNumberTaken: the device of somebody else stays his, and nothing is
// remembered that is not there.
func TestNumberTaken(t *testing.T) {
	s := newSite(t, 1<<20)
	s.kernel.show(2, "somebody's", 1<<20)
	s.o.Number = 2
	if _, err := s.open(); err == nil || !strings.Contains(err.Error(), "nbd2 is in use: choose another number") || remembered(s) {
		t.Errorf("%v", err)
	}
	if s.kernel.devices[2] != "somebody's" {
		t.Error("it was taken away")
	}
}

// TestKilledBetweenRecordAndDevice: a record without a device makes no difference,
// nor does a device that has come to be without anybody having been told.
func TestKilledBetweenRecordAndDevice(t *testing.T) {
	s := newSite(t, 1<<20)
	i := info(1<<20, "serial-1")
	o, _ := s.o.withDefaults()
	rec, err := newRecord(&o, &i)
	if err == nil {
		err = rec.write(s.o.StateDir)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := s.mustOpen()
	if d.Status().Recovered {
		t.Error("a device that never was is recovered")
	}
	d.Leave()
	s.kernel.show(4, d.backend, 1<<20)
	if d = s.mustOpen(); !d.Status().Recovered {
		t.Error("a device that is there is not recovered")
	}
}

// TestLostConnection: the driver gets new sockets for those that it loses, again
// and again until it takes them; of other devices' losses nothing is heard.
func TestLostConnection(t *testing.T) {
	s := newSite(t, 1<<20)
	d := s.mustOpen()
	d.news.tell(7)
	d.news.tell(4)
	wait(t, "a new connection", func() bool { return d.Status().Reconnects == 1 })
	s.kernel.mu.Lock()
	s.kernel.refuse = syscall.ENOMEM
	s.kernel.mu.Unlock()
	d.news.tell(4)
	wait(t, "a broken device", func() bool { return d.Status().State == Broken })
	s.kernel.mu.Lock()
	s.kernel.refuse = 0
	s.kernel.mu.Unlock()
	wait(t, "another try", func() bool { return d.Status().State == Serving && d.Status().Reconnects == 2 })
	_, _ = s.kernel.exchange(finish((&settings{number: 4}).append(message(0x1c, nlAck, 1, cmdDisconnect, 1))))
	if st := d.Status(); st.State != Removed {
		t.Errorf("somebody has removed it: %+v", st)
	}
	if err := d.Close(context.Background()); err != nil || remembered(s) {
		t.Errorf("Close of what is gone: %v", err)
	}
}

// TestBadRecords: what no engine has written is refused, with where it stands.
func TestBadRecords(t *testing.T) {
	s := newSite(t, 1<<20)
	path := recordPath(s.o.StateDir, s.o.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{}", "[]", `{"backend":"engine/x"}`, `{"backend":"other","connections":1}`,
		`{"backend":"engine/x","connections":99}`, `{"unknown":1}`, strings.Repeat(" ", maxRecord+2)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.open(); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

// TestList: devices of ours, of others, and memories.
func TestList(t *testing.T) {
	s := newSite(t, 1<<20)
	s.mustOpen().Leave()
	s.kernel.show(2, "somebody's", 1<<21)
	all := list(s.kernel.driver(), []int{4, 2}, records(s.o.StateDir))
	if len(all) != 2 || all[0].Name != "" || all[0].Recoverable || all[0].Size != 1<<21 ||
		all[1].Name != "disk" || !all[1].Recoverable || all[1].Identity != "serial-1" || all[1].Path != "/dev/nbd4" {
		t.Errorf("%+v", all)
	}
	all = list(s.kernel.driver(), nil, records(s.o.StateDir))
	if len(all) != 1 || all[0].State != StateGone || all[0].Number != AnyNumber || all[0].Recoverable {
		t.Errorf("%+v", all)
	}
}
