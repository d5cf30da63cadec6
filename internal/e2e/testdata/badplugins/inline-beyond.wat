;; Sends more bytes than its record holds.
(func $request (param $p i32)
  (call $head (i64.const 1) (i64.const 16)) (call $put (i64.const 0xfffffff0)))
