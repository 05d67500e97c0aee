"The package's metadata: all of it comes from settings.ini, which nbdev reads too"
import sys
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
sys.path.insert(0, str(here/'tools'))
from docstrings import with_params


class Documented(build_py):
    "The source says each parameter once, in a comment; what is installed repeats it where `help` and `?` look"
    def build_module(self, module, module_file, package):
        res = super().build_module(module, module_file, package)
        file = Path(self.get_module_outfile(self.build_lib, package.split('.'), module))
        if not self.editable_mode: file.write_text(with_params(file.read_text(encoding='utf-8')), encoding='utf-8')
        return res


cfg = ConfigParser(delimiters=['='])
cfg.read(here/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
readme = here/'README.md'
extras = {k: cfg[f'{k}_requirements'].split() for k in ('tsai', 'distributed', 'parquet', 'dev')}
extras['dev'] += extras['tsai'] + extras['distributed'] + extras['parquet']

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords=cfg['keywords'].split(),
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    cmdclass={'build_py': Documented},
    packages=find_packages(include=[cfg['lib_path'], f"{cfg['lib_path']}.*"]),
    package_data={cfg['lib_path']: ['py.typed']},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={
        'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
        'console_scripts': cfg['console_scripts'].split(),
    },
)
