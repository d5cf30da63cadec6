package process

import (
	"fmt"
	"os"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"blockengine/sdk/process/control"
	"blockengine/sdk/protocol"
	"blockengine/sdk/store"
)

// Options say what a process serves: one of the two.
type Options struct {
	Store    store.Plugin
	Protocol protocol.Plugin
}

// Serve is a plugin's main. It serves until the engine has no more need of the
// process, and then ends it. A program that was not started by an engine says so
// and exits with status 1.
func Serve(o Options) {
	if (o.Store == nil) == (o.Protocol == nil) {
		fail("process.Serve: give one plugin, Store or Protocol")
	}
	if h := control.Handshake(); os.Getenv(h.MagicCookieKey) != h.MagicCookieValue {
		fail("this is a plugin of the storage engine, which starts it: name it in engine.toml, in a [[plugin]] with runtime = \"process\" and this file as its path")
	}
	in := newInbox()
	if err := isSocket(control.FilesFD); err != nil {
		fail(fmt.Sprintf("descriptor %d: %v: plugins are started by the engine only", control.FilesFD, err))
	}
	go in.receive(control.FilesFD)
	serve(newServer(o, in))
	// The engine has shut the connection down in order: nothing is open.
	os.Exit(0)
}

// serve answers calls until the connection is shut down.
func serve(s *server) {
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: control.Handshake(),
		Plugins:         plugin.PluginSet{control.PluginName: &controlPlugin{server: s}},
		// go-plugin's own words are of no use to who reads the engine's log.
		Logger: hclog.NewNullLogger(),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(control.MaxMessage), grpc.MaxSendMsgSize(control.MaxMessage))...)
		},
	})
}

func fail(text string) {
	fmt.Fprintln(os.Stderr, text)
	os.Exit(1)
}

func isSocket(fd int) error {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFSOCK {
		return fmt.Errorf("it is no socket")
	}
	syscall.CloseOnExec(fd)
	return syscall.SetNonblock(fd, false)
}
