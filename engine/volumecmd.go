package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"blockengine/engine/admin"
)

func volumeCommand() *cobra.Command {
	return group("volume", "Orders about volumes", volumeRescanCommand())
}

func volumeRescanCommand() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{Use: "rescan NAME", Short: "Have a running engine look at what is behind a volume, after it was made larger",
		Long: "Have a running engine look at what is behind a volume, after it was made larger (lvextend, truncate, the\n" +
			"store's own tools). Guests are told, and use what is new without a restart; clients of NBD see it when they\n" +
			"connect the next time. Volumes whose plugin says by itself that its disk has grown do not need it. A disk\n" +
			"that is smaller, or another one, stops its volume.",
		Args: oneArg("NAME"), RunE: does(func(cmd *cobra.Command, args []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			found, err := client.Rescan(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), found)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), rescanText(found))
			return err
		})}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func rescanText(r admin.Rescanned) string {
	if r.Before == r.Size {
		return fmt.Sprintf("volume %q: %d bytes, as before", r.Volume, r.Size)
	}
	return fmt.Sprintf("volume %q: %d bytes, and had %d", r.Volume, r.Size, r.Before)
}

// Rescan implements admin.Source.
func (e *engine) Rescan(ctx context.Context, name string) (admin.Rescanned, error) {
	if e.draining.Load() {
		return admin.Rescanned{}, admin.Refuse(http.StatusServiceUnavailable, "the engine ends")
	}
	for _, d := range e.disks {
		if d.Config.Name != name {
			continue
		}
		before, _ := d.Volume.Info()
		now, err := d.Rescan(ctx)
		return admin.Rescanned{Volume: name, Before: before.Size, Size: now.Size}, err
	}
	return admin.Rescanned{}, admin.Refuse(http.StatusNotFound, "there is no volume %q: engine status shows those there are", name)
}
