package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"blockengine/engine/admin"
	"blockengine/engine/config"
	"blockengine/engine/pluginhost"
	"blockengine/engine/pluginhost/recording"
)

// Bounds of a recording.
const (
	defaultRecord = 10 * time.Second
	maxRecord     = time.Hour
	defaultLimit  = "1GiB"
)

// Record implements admin.Source.
func (e *engine) Record(ctx context.Context, plugin string, r admin.RecordRequest, w io.Writer) error {
	d, err := fromSeconds("seconds", r.Seconds, maxRecord)
	if err == nil && (d == 0 || r.Limit < 0) {
		err = admin.Refuse(http.StatusBadRequest, "a recording takes more than 0 seconds and 0 bytes or more")
	}
	if err != nil {
		return err
	}
	return e.order(plugin, func() error {
		if e.orders.upgrader == nil {
			return admin.Refuse(http.StatusServiceUnavailable, "the engine begins: try again")
		}
		return e.orders.upgrader.Record(ctx, pluginhost.RecordRequest{Plugin: plugin, Volume: r.Volume, For: d, Payload: r.Payload,
			Limit: r.Limit, Engine: version}, w)
	})
}

const recordLong = `Record what a plugin is told and what it answers, for the connections of a volume
while it is in use. They are joined as for a handover: a request waits for about a
round trip. engine plugin replay hands the recording to any version of the plugin.

Payload is left out, and the values of options that the plugin calls secret. What the
plugin has saved of its connections is in the recording, and what it sends, for instance
in a login: the file is for your eyes only, and is made so.`

func pluginRecordCommand() *cobra.Command {
	var t target
	var r admin.RecordRequest
	var file, limit string
	var d time.Duration
	var asJSON bool
	cmd := &cobra.Command{Use: "record NAME -o FILE", Short: "Record what crosses the seam of a plugin while its volume is in use",
		Long: recordLong, Args: oneArg("NAME"), RunE: does(func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return &misuse{errors.New("name the FILE to write with -o")}
			}
			if err := checkDuration("for", d, time.Millisecond, maxRecord); err != nil {
				return err
			}
			n, err := config.ParseSize(limit)
			if err != nil || n < 1<<10 || n > 1<<50 {
				return &misuse{fmt.Errorf("--limit: %q is no size from 1KiB to 1024TiB", limit)}
			}
			r.Seconds, r.Limit = d.Seconds(), int64(n)
			client, err := t.client()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			if err := recordTo(ctx, client, args[0], r, file); err != nil {
				return err
			}
			return printRecording(cmd.OutOrStdout(), file, asJSON)
		})}
	t.flags(cmd)
	f := cmd.Flags()
	f.StringVarP(&file, "output", "o", "", "the `FILE` to write; it must not be there yet")
	f.StringVar(&r.Volume, "volume", "", "this `volume` (default the only one of the plugin)")
	f.DurationVar(&d, "for", defaultRecord, "how long to record")
	f.StringVar(&limit, "limit", defaultLimit, "end when the recording is as long as this `size`")
	f.BoolVar(&r.Payload, "payload", false, "of a plugin that transforms payload, record that too; replay needs it")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// recordTo writes the recording to a new file that only its owner can read. A
// file of which nothing has come is removed.
func recordTo(ctx context.Context, c *admin.Client, plugin string, r admin.RecordRequest, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there already: name another file, or remove it", path)
	}
	if err != nil {
		return err
	}
	err = c.Record(ctx, plugin, r, f)
	info, serr := f.Stat()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	switch {
	case err == nil:
		return nil
	case serr == nil && info.Size() == 0:
		return errors.Join(err, os.Remove(path))
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: %s holds what has come until then", path)
	}
	return fmt.Errorf("%s holds only what has come until it was cut: %w", path, err)
}

// recordSummary is what is told of a recording.
type recordSummary struct {
	File      string             `json:"file"`
	Bytes     int64              `json:"bytes"`
	Recording recording.Header   `json:"recording"`
	End       *recording.Trailer `json:"end"`
	Records   int                `json:"records"`
}

// printRecording reads the file over and tells what is in it.
func printRecording(w io.Writer, path string, asJSON bool) error {
	s, err := summary(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if asJSON {
		return printJSON(w, s)
	}
	_, err = fmt.Fprintf(w, "%s: %d connections of volume %s on %s %s, %d records, %d bytes; it ended because %s\n", path,
		s.End.Connections, s.Recording.Volume, s.Recording.Name, dash(s.Recording.Version), s.Records, s.Bytes, s.End.Reason)
	if err == nil && s.End.Joined > 0 {
		_, err = fmt.Fprintf(w, "%d were joined in use: a request waited %s at most for that; what the plugin had saved is in the file\n",
			s.End.Joined, milliseconds(s.End.Pause))
	}
	if err == nil && s.End.Lost > 0 {
		_, err = fmt.Fprintf(w, "%d were not kept to their end: the file could not be written as fast\n", s.End.Lost)
	}
	return err
}

func summary(path string) (*recordSummary, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r, err := recording.NewReader(f)
	if err != nil {
		return nil, err
	}
	s := &recordSummary{File: path, Bytes: info.Size(), Recording: r.Header}
	for {
		if _, err = r.Next(); err != nil {
			break
		}
		s.Records++
	}
	if err != io.EOF {
		return nil, err
	}
	s.End = r.Trailer
	return s, nil
}
