package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Frontend is how an export is served.
type Frontend string

// The frontends.
const (
	FrontendNBD       Frontend = "nbd"
	FrontendVhostUser Frontend = "vhost-user-blk"
	FrontendUblk      Frontend = "ublk"
	FrontendNBDKernel Frontend = "nbd-kernel"
)

// Export is an [[export]] section.
type Export struct {
	Place
	Name        string // nbd: the export name, any UTF-8 without NUL, may be empty
	Description string // nbd: shown in the list of exports
	Volume      string
	Frontend    Frontend
	ReadOnly    bool    // the export is, or its volume
	Listen      Address // nbd; exports with the same address share a server
	Socket      string  // vhost-user-blk: where VMMs connect; absolute path
	Connect     string  // vhost-user-blk: where a VMM listens, instead; absolute path
	Serial      string  // vhost-user-blk: the disk's serial number in the guest; the name if not set
	Queues      int     // vhost-user-blk and ublk

	// Of ublk and nbd-kernel, which make devices of this host.
	Device int    // its number, or AnyDevice
	OnStop OnStop // what becomes of it when the engine is stopped

	// Of ublk.
	Depth        int    // requests that each queue holds
	MaxIO        uint64 // bytes of the largest request
	Recovery     Recovery
	Copy         Copy
	Buffers      uint64 // bytes of each queue that its requests share, see Copy; 0: the frontend chooses
	Unprivileged bool   // made as a device that needs no CAP_SYS_ADMIN

	// Of nbd-kernel.
	Connections     int           // between the kernel and the engine
	DeadConnTimeout time.Duration // how long requests wait for the next engine; to the second
	RequestTimeout  time.Duration // after which the kernel gives a connection up, and sends the request again
}

// Limits of exports.
const (
	// MaxNBDString is the most bytes of a string in the NBD protocol.
	MaxNBDString = 4096
	MaxQueues    = 256
	// MaxSerial is the most bytes of a virtio disk's serial number.
	MaxSerial = 20
)

func (r *reader) export(s *section) Export {
	e := Export{Name: s.text("name")}
	if _, ok := s.values["name"].(string); ok {
		s.call("export", e.Name)
	}
	e.Place = s.Place
	e.Description = s.text("description")
	e.Volume = s.text("volume")
	e.Frontend = choice(s, "frontend", "", []Frontend{FrontendNBD, FrontendVhostUser, FrontendUblk, FrontendNBDKernel})
	e.ReadOnly = s.boolean("read_only")
	e.Listen = s.address("listen")
	e.Socket = parsed(s, "socket", "", "a path", "put it in quotes", r.exportSocket)
	e.Connect = parsed(s, "connect", "", "a path", "put it in quotes", r.exportSocket)
	e.Serial = s.text("serial")
	e.Queues = s.integer("queues", 1, 1, MaxQueues)
	r.deviceKeys(s, &e)
	s.finish()
	r.checkExportName(s, e)
	r.checkFrontend(s, e)
	r.checkExportVolume(s, &e)
	return e
}

// exportSocket reads a socket's path, which is no address.
func (r *reader) exportSocket(s string) (string, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return "", &ValueError{quote(s) + " is an address, not a path", "write " + quote(path)}
	}
	return parseSocketPath(r.cfg.Dir, s)
}

func (r *reader) checkExportName(s *section, e Export) {
	if _, ok := s.values["name"].(string); !ok {
		if !s.has("name") {
			s.lacks("name", `add one, as in name = "disk1"`)
		}
		return
	}
	if e.Frontend == FrontendVhostUser || e.Frontend.isDevice() {
		if !isName(e.Name) {
			s.bad("name", quote(e.Name)+" is not allowed", nameFix)
		}
		return
	}
	checkNBDString(s, "name", e.Name)
	checkNBDString(s, "description", e.Description)
}

func checkNBDString(s *section, key, text string) {
	if len(text) > MaxNBDString {
		s.bad(key, fmt.Sprintf("has %d bytes", len(text)), fmt.Sprintf("use at most %d", MaxNBDString))
	}
	if strings.ContainsRune(text, 0) {
		s.bad(key, "holds a NUL byte", "remove it")
	}
}

// frontendKeys are the keys that some frontends have and others have not.
var frontendKeys = map[string][]Frontend{
	"listen":      {FrontendNBD},
	"description": {FrontendNBD},
	"socket":      {FrontendVhostUser},
	"connect":     {FrontendVhostUser},
	"serial":      {FrontendVhostUser},
	"queues":      {FrontendVhostUser, FrontendUblk},

	"device":            {FrontendUblk, FrontendNBDKernel},
	"on_stop":           {FrontendUblk, FrontendNBDKernel},
	"depth":             {FrontendUblk},
	"max_io":            {FrontendUblk},
	"recovery":          {FrontendUblk},
	"copy":              {FrontendUblk},
	"buffers":           {FrontendUblk},
	"unprivileged":      {FrontendUblk},
	"connections":       {FrontendNBDKernel},
	"dead_conn_timeout": {FrontendNBDKernel},
	"request_timeout":   {FrontendNBDKernel},
}

// checkFrontend checks that an export has what its frontend needs and no more.
func (r *reader) checkFrontend(s *section, e Export) {
	switch {
	case !s.has("frontend"):
		s.lacks("frontend", `write frontend = "nbd"`)
		return
	case e.Frontend == "":
		return // already reported
	}
	for _, key := range s.inOrder() {
		fits, special := frontendKeys[key]
		if special && !slices.Contains(fits, e.Frontend) {
			s.bad(key, fmt.Sprintf("is not for frontend %q", e.Frontend), "remove it")
		}
	}
	if e.Frontend == FrontendNBD && !s.has("listen") {
		s.lacks("listen", `say where clients connect, as in listen = "tcp:127.0.0.1:10809" or "unix:PATH"`)
	}
	if e.Frontend == FrontendVhostUser {
		checkVhostUser(s, e)
	}
}

func checkVhostUser(s *section, e Export) {
	switch {
	case !s.has("socket") && !s.has("connect"):
		s.lacks("socket", `say where the VMM connects, as in socket = "run/vm1.sock", or with connect where it listens`)
	case s.has("socket") && s.has("connect"):
		s.bad("connect", "and socket both say where the VMM is met", "keep socket if the VMM connects, connect if it listens")
	}
	if len(e.Serial) > MaxSerial || strings.ContainsRune(e.Serial, 0) {
		s.bad("serial", fmt.Sprintf("has %d bytes, or holds a NUL byte", len(e.Serial)), fmt.Sprintf("use at most %d bytes", MaxSerial))
	}
}

// checkExportVolume finds the export's volume, whose read_only the export
// inherits.
func (r *reader) checkExportVolume(s *section, e *Export) {
	if !s.has("volume") {
		s.lacks("volume", "name the [[volume]] to export")
	}
	if _, ok := s.values["volume"].(string); !ok {
		return
	}
	if v, ok := r.volumeNames[e.Volume]; ok {
		e.ReadOnly = e.ReadOnly || r.cfg.Volumes[v].ReadOnly
		r.checkDevice(s, e, &r.cfg.Volumes[v])
		return
	}
	fix := "add a [[volume]] with that name"
	if near := r.guess(e.Volume, namesOf(r.volumes)); near != "" {
		fix = fmt.Sprintf("write %q, or %s", near, fix)
	}
	s.bad("volume", quote(e.Volume)+" is not defined", fix)
}
