package recording

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

const (
	magic  = "beRECORD"
	format = 1
	minor  = 0

	headSize   = 20
	recordHead = 24
	maxHeader  = 64 << 10
	maxBody    = 1 << 20 // bytes of a record
)

// Kinds of records.
const (
	kindBegin   = 1
	kindEvents  = 2
	kindActions = 3
	kindClosed  = 4
	kindLost    = 5
	kindEnd     = 6
)

// Flags of records.
const (
	flagResumed = 1 << 0 // Begin
	flagTrap    = 1 << 1 // Actions
	flagWords   = 1 << 2 // Actions
)

// blanked in an abi record's Flags: its bytes are a hash.
const blanked = 1 << 15

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Header says what was recorded.
type Header struct {
	Plugin  string    `json:"plugin"` // as volumes call it
	Name    string    `json:"name"`   // as it calls itself
	Version string    `json:"version"`
	Hash    string    `json:"hash"`
	Runtime string    `json:"runtime"`
	ABI     uint32    `json:"abi"`
	Volume  string    `json:"volume"`
	Engine  string    `json:"engine"`
	Began   time.Time `json:"began"`
	Copies  bool      `json:"copies"`            // the plugin transforms payload
	Payload bool      `json:"payload"`           // what it is handed of it is here
	Secrets []string  `json:"secrets,omitempty"` // options whose values are left out
}

// Trailer says how a recording ended.
type Trailer struct {
	Reason      string  `json:"reason"`
	Connections uint32  `json:"connections"`
	Joined      int     `json:"joined"`        // of them were in use already
	Lost        uint32  `json:"lost"`          // of them were not kept to their end
	Pause       float64 `json:"pause_seconds"` // the longest that a request had to wait for the joining
}

// appendHead writes the beginning of a file.
func appendHead(b []byte, h *Header) ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	b = append(b, magic...)
	b = le.AppendUint16(le.AppendUint16(b, format), minor)
	b = le.AppendUint32(b, uint32(len(text)))
	b = le.AppendUint32(b, crc32.Checksum(text, castagnoli))
	return append(b, text...), nil
}

// appendRecord writes a record whose checksum seal fills in.
func appendRecord(b []byte, kind, flags uint8, conn uint32, ns int64, parts ...[]byte) []byte {
	n := 16
	for _, p := range parts {
		n += len(p)
	}
	b = le.AppendUint32(le.AppendUint32(b, uint32(n)), 0)
	b = append(b, kind, flags, 0, 0)
	b = le.AppendUint64(le.AppendUint32(b, conn), uint64(ns))
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// seal fills in the checksums of whole records.
func seal(b []byte) {
	for len(b) >= recordHead {
		n := int(le.Uint32(b))
		le.PutUint32(b[4:], crc32.Checksum(b[8:8+n], castagnoli))
		b = b[8+n:]
	}
}

// parseHead reads the beginning of a file's fixed part.
func parseHead(b []byte) (length, sum uint32, err error) {
	if string(b[:8]) != magic {
		return 0, 0, errors.New("it is no recording: it does not begin as one")
	}
	if v := le.Uint16(b[8:]); v != format {
		return 0, 0, fmt.Errorf("its format is %d, and this engine reads %d: use the engine that has made it", v, format)
	}
	length = le.Uint32(b[12:])
	if length > maxHeader {
		return 0, 0, fmt.Errorf("its header says that it is %d bytes long, more than %d: it is damaged", length, maxHeader)
	}
	return length, le.Uint32(b[16:]), nil
}
