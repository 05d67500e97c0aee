"Labels in parts"
