;; Gives a record of no bytes.
(func $request (param $p i32) (call $head (i64.const 11) (i64.const 0)) (call $put (i64.const 0)))
