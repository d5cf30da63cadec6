package process

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"blockengine/sdk/abi"
	"blockengine/sdk/manifest"
	"blockengine/sdk/process/control"
	serving "blockengine/sdk/process/worker"
	"blockengine/sdk/store"
)

// controlPlugin is what go-plugin serves.
type controlPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	server *server
}

// GRPCServer implements plugin.GRPCPlugin.
func (p *controlPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	control.Register(s, p.server)
	return nil
}

// GRPCClient implements plugin.GRPCPlugin. The engine's end is its own.
func (p *controlPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("this is the plugin's end")
}

// server answers the engine's calls: a control.Server.
type server struct {
	opt    Options
	inbox  *inbox
	memory *serving.Memory

	mu       sync.Mutex // guards what follows; held for short copies only
	devices  map[uint64]*device
	channels map[uint64]*channel
}

// device is a disk that is open, or is being opened.
type device struct {
	cancel context.CancelFunc
	opened chan struct{} // closed when nobody is at opening any more
	dev    store.Device  // nil if it could not be opened; after opened only

	changes changes
	life    context.Context // ends when the disk is to be closed
	end     context.CancelFunc
	asking  sync.Mutex // held while the disk is asked what it is like, and closed
	closed  bool       // guarded by asking
}

// channel is a region that is served, or is about to be.
type channel struct {
	opened chan struct{} // closed when worker is there, or will not come
	worker *worker       // after opened only
}

func newServer(o Options, in *inbox) *server {
	return &server{opt: o, inbox: in, memory: serving.NewMemory(), devices: map[uint64]*device{}, channels: map[uint64]*channel{}}
}

// Hello implements control.Server.
func (s *server) Hello(context.Context, *control.Hello) (*control.Manifest, error) {
	if s.opt.Store != nil {
		m := s.opt.Store.Manifest()
		return &control.Manifest{Version: control.Version, Kind: control.Store, Name: m.Name, Release: m.Version,
			ABI: abi.Version, Options: optionsOf(m.Options), FenceOnExit: m.FenceOnExit}, nil
	}
	m := s.opt.Protocol.Manifest()
	return &control.Manifest{Version: control.Version, Kind: control.Protocol, Name: m.Name, Release: m.Version,
		ABI: abi.Version, Payload: string(m.Payload), Options: optionsOf(m.Options)}, nil
}

func optionsOf(list []manifest.Option) []control.Option {
	out := make([]control.Option, len(list))
	for i, o := range list {
		out[i] = control.Option{Name: o.Name, Type: o.Type.String(), Required: o.Required, Secret: o.Secret, Help: o.Help}
	}
	return out
}

// Health implements control.Server.
func (s *server) Health(context.Context, *control.Done) (*control.Done, error) {
	return &control.Done{}, nil
}

// OpenDevice implements control.Server. A disk whose opening the engine has
// given up is closed by its CloseDevice, which may come first.
func (s *server) OpenDevice(ctx context.Context, m *control.OpenDevice) (*control.Info, error) {
	if s.opt.Store == nil {
		return nil, errors.New("this plugin encapsulates a protocol and opens no disks")
	}
	o, err := decodeOptions(s.opt.Store.Manifest().Options, m.Options)
	if err != nil {
		return nil, err
	}
	o.Volume, o.ReadOnly = m.Volume, m.ReadOnly
	opening, cancel := context.WithCancel(ctx)
	d := newDevice(cancel)
	if err := s.addDevice(m.Device, d); err != nil {
		cancel()
		return nil, err
	}
	d.dev, err = s.opt.Store.Open(opening, o)
	if err != nil {
		d.dev = nil
	} else {
		d.changes.watch(d.dev)
	}
	close(d.opened)
	if err == nil {
		err = ctx.Err() // given up: its CloseDevice may have been and gone
	}
	if err != nil {
		if s.takeDevice(m.Device) == d {
			_ = d.close()
		}
		return nil, err
	}
	info := control.InfoOf(d.dev.Info())
	return &info, nil
}

func newDevice(cancel context.CancelFunc) *device {
	d := &device{cancel: cancel, opened: make(chan struct{})}
	d.life, d.end = context.WithCancel(context.Background())
	return d
}

// takeDevice takes a device out: who gets it closes it.
func (s *server) takeDevice(number uint64) *device {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devices[number]
	delete(s.devices, number)
	return d
}

func (s *server) addDevice(number uint64, d *device) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.devices[number]; ok {
		return fmt.Errorf("device %d has been opened already", number)
	}
	s.devices[number] = d
	return nil
}

// CloseDevice implements control.Server. One that is not there is closed.
func (s *server) CloseDevice(_ context.Context, m *control.CloseDevice) (*control.Done, error) {
	d := s.takeDevice(m.Device)
	if d == nil {
		return &control.Done{}, nil
	}
	return &control.Done{}, d.close()
}

func (d *device) close() error {
	d.cancel()
	d.end()
	d.changes.end()
	<-d.opened
	if d.dev == nil {
		return nil
	}
	d.asking.Lock()
	defer d.asking.Unlock()
	d.closed = true
	return d.dev.Close()
}

// OpenChannel implements control.Server.
func (s *server) OpenChannel(ctx context.Context, m *control.OpenChannel) (*control.Done, error) {
	fds, err := s.inbox.take(ctx, m.Channel)
	if err != nil {
		return nil, err
	}
	f, err := filesOf(fds)
	if err != nil {
		closeAll(fds)
		return nil, err
	}
	c := &channel{opened: make(chan struct{})}
	if err := s.addChannel(m.Channel, c); err != nil {
		closeAll(fds)
		return nil, err
	}
	c.worker, err = s.worker(m, f)
	close(c.opened)
	if err == nil {
		err = ctx.Err() // given up: its CloseChannel may have been and gone
	}
	if err != nil {
		if s.takeChannel(m.Channel) == c {
			c.close()
		}
		return nil, err
	}
	return &control.Done{}, nil
}

// takeChannel takes a channel out: who gets it closes it.
func (s *server) takeChannel(number uint64) *channel {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.channels[number]
	delete(s.channels, number)
	return c
}

func (s *server) addChannel(number uint64, c *channel) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.channels[number]; ok {
		return fmt.Errorf("channel %d has been opened already", number)
	}
	s.channels[number] = c
	return nil
}

// worker begins to serve a region. The files are its.
func (s *server) worker(m *control.OpenChannel, f ringFiles) (*worker, error) {
	o := workerOptions{spin: time.Duration(m.Poll), memory: s.memory}
	if s.opt.Protocol != nil {
		return serveMachine(s.opt.Protocol, f, m.Layout, o)
	}
	d, err := s.open(m.Device)
	if err != nil {
		closeAll([]int{f.Memory, f.Bell})
		return nil, err
	}
	return serveChannel(d.dev, f, m.Layout, o)
}

// CloseChannel implements control.Server. One that is not there is closed.
func (s *server) CloseChannel(_ context.Context, m *control.CloseChannel) (*control.Done, error) {
	c := s.takeChannel(m.Channel)
	s.inbox.drop(m.Channel)
	if c != nil {
		c.close()
	}
	return &control.Done{}, nil
}

func (c *channel) close() {
	<-c.opened
	if c.worker != nil {
		c.worker.Close()
	}
}

// Close implements control.Server.
func (s *server) Close(context.Context, *control.Done) (*control.Done, error) {
	s.mu.Lock()
	channels, devices := s.channels, s.devices
	s.channels, s.devices = map[uint64]*channel{}, map[uint64]*device{}
	s.mu.Unlock()
	for _, c := range channels {
		c.close()
	}
	var errs []error
	for _, d := range devices {
		errs = append(errs, d.close())
	}
	return &control.Done{}, errors.Join(errs...)
}
