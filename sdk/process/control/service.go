package control

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
)

// FilesFD is the descriptor of the socket over which a process is given the
// descriptors of regions and of virtual machines' memory. Each comes in a message of
// its own, of 8 bytes: the number of its channel or memory, little endian. When the
// other end is closed the engine is gone, and the process ends.
const FilesFD = 3

// PluginName is what go-plugin calls the one service that a process has.
const PluginName = "blockengine"

// Handshake is go-plugin's: it tells a plugin that was started by hand from one
// that an engine has started, and refuses engines of another major version. It
// protects nothing.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{ProtocolVersion: Major, MagicCookieKey: "BLOCKENGINE_PLUGIN", MagicCookieValue: "control"}
}

// Server is the plugin's end. Methods are called from any goroutine, several at
// a time.
type Server interface {
	Hello(ctx context.Context, m *Hello) (*Manifest, error)
	OpenDevice(ctx context.Context, m *OpenDevice) (*Info, error)
	DeviceInfo(ctx context.Context, m *DeviceInfo) (*Info, error)
	WatchDevice(ctx context.Context, m *WatchDevice) (*DeviceChanges, error)
	CloseDevice(ctx context.Context, m *CloseDevice) (*Done, error)
	OpenChannel(ctx context.Context, m *OpenChannel) (*Done, error)
	CloseChannel(ctx context.Context, m *CloseChannel) (*Done, error)
	MapMemory(ctx context.Context, m *MapMemory) (*Done, error)
	ForgetMemory(ctx context.Context, m *ForgetMemory) (*Done, error)
	// Health is answered by whoever is alive.
	Health(ctx context.Context, m *Done) (*Done, error)
	// Close ends what is still open, before the process ends.
	Close(ctx context.Context, m *Done) (*Done, error)
}

const serviceName = "blockengine.plugin.v1.Control"

// Register makes a gRPC server answer with impl.
func Register(s grpc.ServiceRegistrar, impl Server) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName, HandlerType: (*Server)(nil),
		Methods: []grpc.MethodDesc{
			method("Hello", Server.Hello),
			method("OpenDevice", Server.OpenDevice),
			method("DeviceInfo", Server.DeviceInfo),
			method("WatchDevice", Server.WatchDevice),
			method("CloseDevice", Server.CloseDevice),
			method("OpenChannel", Server.OpenChannel),
			method("CloseChannel", Server.CloseChannel),
			method("MapMemory", Server.MapMemory),
			method("ForgetMemory", Server.ForgetMemory),
			method("Health", Server.Health),
			method("Close", Server.Close),
		},
	}, impl)
}

// method describes one call.
func method[In, Out any](name string, f func(Server, context.Context, *In) (*Out, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name,
		Handler: func(srv any, ctx context.Context, decode func(any) error, around grpc.UnaryServerInterceptor) (any, error) {
			in := new(In)
			if err := decode(in); err != nil {
				return nil, err
			}
			if around == nil {
				return f(srv.(Server), ctx, in)
			}
			info := &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + serviceName + "/" + name}
			return around(ctx, in, info, func(ctx context.Context, in any) (any, error) {
				return f(srv.(Server), ctx, in.(*In))
			})
		}}
}

// Client is the engine's end. Errors are gRPC's: see package status there.
type Client struct{ conn grpc.ClientConnInterface }

// NewClient gives the engine's end of a connection.
func NewClient(conn grpc.ClientConnInterface) *Client { return &Client{conn} }

// Hello asks who the plugin is.
func (c *Client) Hello(ctx context.Context, m *Hello) (*Manifest, error) {
	return call[Manifest](ctx, c, "Hello", m)
}

// OpenDevice opens a disk, which may take as long as ctx lets it.
func (c *Client) OpenDevice(ctx context.Context, m *OpenDevice) (*Info, error) {
	return call[Info](ctx, c, "OpenDevice", m)
}

// DeviceInfo asks what a disk is like now.
func (c *Client) DeviceInfo(ctx context.Context, m *DeviceInfo) (*Info, error) {
	return call[Info](ctx, c, "DeviceInfo", m)
}

// WatchDevice waits until a disk is like something else.
func (c *Client) WatchDevice(ctx context.Context, m *WatchDevice) (*DeviceChanges, error) {
	return call[DeviceChanges](ctx, c, "WatchDevice", m)
}

// CloseDevice closes a disk.
func (c *Client) CloseDevice(ctx context.Context, m *CloseDevice) error {
	_, err := call[Done](ctx, c, "CloseDevice", m)
	return err
}

// OpenChannel has a region served.
func (c *Client) OpenChannel(ctx context.Context, m *OpenChannel) error {
	_, err := call[Done](ctx, c, "OpenChannel", m)
	return err
}

// CloseChannel waits until nothing of a region is outstanding.
func (c *Client) CloseChannel(ctx context.Context, m *CloseChannel) error {
	_, err := call[Done](ctx, c, "CloseChannel", m)
	return err
}

// MapMemory has the process map memory of a virtual machine.
func (c *Client) MapMemory(ctx context.Context, m *MapMemory) error {
	_, err := call[Done](ctx, c, "MapMemory", m)
	return err
}

// ForgetMemory waits until the process has unmapped such memory.
func (c *Client) ForgetMemory(ctx context.Context, m *ForgetMemory) error {
	_, err := call[Done](ctx, c, "ForgetMemory", m)
	return err
}

// Health asks for a sign of life.
func (c *Client) Health(ctx context.Context) error {
	_, err := call[Done](ctx, c, "Health", &Done{})
	return err
}

// Close has the plugin end what is open.
func (c *Client) Close(ctx context.Context) error {
	_, err := call[Done](ctx, c, "Close", &Done{})
	return err
}

func call[Out any](ctx context.Context, c *Client, name string, in any) (*Out, error) {
	out := new(Out)
	err := c.conn.Invoke(ctx, "/"+serviceName+"/"+name, in, out, grpc.CallContentSubtype(codecName),
		grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage))
	if err != nil {
		return nil, err
	}
	return out, nil
}

// codecName is the subtype of the content that messages have: gRPC's other
// services on the same connection (go-plugin's own) keep theirs.
const codecName = "blockengine-json"

// codec writes messages as JSON.
type codec struct{}

func init() { encoding.RegisterCodec(codec{}) }

// Name implements encoding.Codec.
func (codec) Name() string { return codecName }

// Marshal implements encoding.Codec.
func (codec) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

// Unmarshal implements encoding.Codec.
func (codec) Unmarshal(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("message of %d bytes: %w", len(b), err)
	}
	return nil
}
