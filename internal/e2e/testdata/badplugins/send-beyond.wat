;; Sends beyond the payload of a write, to the server.
(func $request (param $p i32)
  (call $range (i64.const 2) (i64.load offset=8 (local.get $p)) (i64.const 0)
    (i64.add (i64.load offset=32 (local.get $p)) (i64.const 4096))))
