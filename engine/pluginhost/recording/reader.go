package recording

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"blockengine/sdk/abi"
)

// Reader reads a recording. What it reads may be anything.
type Reader struct {
	Header  Header
	Trailer *Trailer // once the last record was read

	r   io.Reader
	buf []byte // aligned
	at  int64
}

// Record is one record of a file. Its bytes are valid until the next one is read.
type Record struct {
	kind  uint8
	flags uint8
	Conn  uint32
	NS    int64
	Data  []byte // aligned to 8
}

// NewReader reads the beginning of a file.
func NewReader(r io.Reader) (*Reader, error) {
	d := &Reader{r: r, buf: abi.Buffer(maxBody)}
	head := make([]byte, headSize)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("it is no recording: %w", whole(err))
	}
	n, sum, err := parseHead(head)
	if err != nil {
		return nil, err
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, fmt.Errorf("its header is cut short: %w", whole(err))
	}
	if crc32.Checksum(text, castagnoli) != sum {
		return nil, errors.New("its header is damaged: the checksum is another one")
	}
	d.at = int64(headSize) + int64(n)
	if err := json.Unmarshal(text, &d.Header); err != nil {
		return nil, fmt.Errorf("its header is not understood: %w", err)
	}
	return d, nil
}

// whole makes an end in the middle an unexpected one.
func whole(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Next reads a record; io.EOF after the last one. A file that ends without its
// last record gives io.ErrUnexpectedEOF, after all that there is of it.
func (d *Reader) Next() (Record, error) {
	var head [recordHead]byte
	if d.Trailer != nil {
		return Record{}, io.EOF
	}
	if _, err := io.ReadFull(d.r, head[:]); err != nil {
		return Record{}, fmt.Errorf("it is cut short after %d bytes: %w", d.at, whole(err))
	}
	n := int64(le.Uint32(head[:])) - 16
	if n < 0 || n > maxBody {
		return Record{}, fmt.Errorf("the record at byte %d is said to be %d bytes long: the file is damaged", d.at, n+16)
	}
	b := d.buf[:n]
	if _, err := io.ReadFull(d.r, b); err != nil {
		return Record{}, fmt.Errorf("it is cut short within the record at byte %d: %w", d.at, whole(err))
	}
	sum := crc32.Update(crc32.Checksum(head[8:], castagnoli), castagnoli, b)
	if sum != le.Uint32(head[4:]) {
		return Record{}, fmt.Errorf("the record at byte %d is damaged: the checksum is another one", d.at)
	}
	d.at += recordHead + n
	r := Record{kind: head[8], flags: head[9], Conn: le.Uint32(head[12:]), NS: int64(le.Uint64(head[16:])), Data: b}
	if r.kind == kindEnd {
		d.Trailer = &Trailer{}
		if err := json.Unmarshal(b, d.Trailer); err != nil {
			return Record{}, fmt.Errorf("its last record is not understood: %w", err)
		}
		return Record{}, io.EOF
	}
	return r, nil
}

// opening reads a Begin record.
func (r *Record) opening() (o Opening, err error) {
	if len(r.Data) >= 16 {
		a, b := uint64(le.Uint32(r.Data[8:])), uint64(le.Uint32(r.Data[12:]))
		if a+b == uint64(len(r.Data)-16) && a%8 == 0 {
			rest := r.Data[16:]
			return Opening{Number: le.Uint32(r.Data), Reactor: int(le.Uint32(r.Data[4:])), Opened: rest[:a:a],
				Limits: rest[a:], Resumed: r.flags&flagResumed != 0}, nil
		}
	}
	return o, fmt.Errorf("the beginning of connection %d is malformed", r.Conn)
}

// actions gives the actions of a call, and whether the plugin trapped then.
func (r *Record) actions() (b []byte, trapped string, is bool) {
	if r.flags&flagTrap == 0 {
		return r.Data, "", false
	}
	b = r.Data
	at := 0
	for len(b)-at >= 8 {
		n := int64(le.Uint32(b[at+4:]))
		if n < 8 || n%8 != 0 || n > int64(len(b)-at) {
			break
		}
		at += int(n)
	}
	return b[:at], string(b[at:]), true
}
